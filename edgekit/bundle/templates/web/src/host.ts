// What this browser offers a model: threads, SIMD, WebGPU.

import type { Placement } from './engine';

const MOST_THREADS = 8;
// (module (func (result v128) i32.const 0 i8x16.splat)): valid only where SIMD is known
const SIMD_PROBE = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11]);

export const hasSimd = (): boolean => WebAssembly.validate(SIMD_PROBE);

/** Threads need shared memory, which needs the two headers of the server. */
export const hasThreads = (): boolean => self.crossOriginIsolated && typeof SharedArrayBuffer !== 'undefined';

export const threads = (): number => (hasThreads() ? Math.min(MOST_THREADS, navigator.hardwareConcurrency || 1) : 1);

interface Gpu {
  requestAdapter(): Promise<object | null>;
}

/** Whether WebGPU is there with a device behind it. */
export async function hasWebGpu(): Promise<boolean> {
  const gpu = (navigator as Navigator & { gpu?: Gpu }).gpu;
  return gpu !== undefined && (await gpu.requestAdapter().catch(() => null)) !== null;
}

/** Every way to run a model here, the usual one first. */
export async function placements(): Promise<Placement[]> {
  const found: Placement[] = [{ provider: 'wasm', threads: threads() }];
  if (threads() > 1) found.push({ provider: 'wasm', threads: 1 });
  if (await hasWebGpu()) found.push({ provider: 'webgpu', threads: 1 });
  return found;
}

/** A browser does not name the CPU; this says what it does: itself, the system, the number of cores. */
export function cpuName(): string {
  const agent = navigator.userAgent;
  const browser = /(Firefox|Edg|Chrome)\/[\d]+/.exec(agent)?.[0] ?? /Version\/[\d]+(?=.*Safari)/.exec(agent)?.[0].replace('Version', 'Safari');
  const system = /Android|iPhone|iPad|Windows|Mac OS X|CrOS|Linux/.exec(agent)?.[0];
  return `${(browser ?? 'browser').replace('/', ' ')} on ${system ?? 'an unknown system'}, ${navigator.hardwareConcurrency} cores`;
}
