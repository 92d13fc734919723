// The thread that runs a model with ONNX Runtime Web, so that the page never freezes; one session per worker.

import type * as Ort from 'onnxruntime-web';
import gpuGlue from 'onnxruntime-web/ort-wasm-simd-threaded.asyncify.mjs?url';
import gpuWasm from 'onnxruntime-web/ort-wasm-simd-threaded.asyncify.wasm?url';
import cpuGlue from 'onnxruntime-web/ort-wasm-simd-threaded.mjs?url';
import cpuWasm from 'onnxruntime-web/ort-wasm-simd-threaded.wasm?url';
import type { Placement } from './engine';
import type { Answer, Request } from './ort';

let ort: typeof Ort;
let session: Ort.InferenceSession;

const say = (answer: Answer, transfer: Transferable[] = []) => self.postMessage(answer, { transfer });

self.onmessage = async ({ data: request }: MessageEvent<Request>) => {
  try {
    if (request.kind === 'open') await open(request.url, request.placement);
    else if (request.kind === 'run') await run(request.pixels, request.dims);
    else await time(request.pixels, request.dims, request.iterations);
  } catch (error) {
    say({ kind: 'failed', message: error instanceof Error ? error.message : String(error) });
  }
};

async function open(url: string, { provider, threads }: Placement): Promise<void> {
  const gpu = provider === 'webgpu';
  const model = await download(url);
  ort = gpu ? await import('onnxruntime-web/webgpu') : await import('onnxruntime-web/wasm');
  const absolute = (path: string) => new URL(path, self.location.href).href;
  ort.env.wasm.wasmPaths = { mjs: absolute(gpu ? gpuGlue : cpuGlue), wasm: absolute(gpu ? gpuWasm : cpuWasm) };
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = 'error';
  session = await ort.InferenceSession.create(model, { executionProviders: [provider], logSeverityLevel: 3 });
  say({ kind: 'opened', outputs: [...session.outputNames], bytes: model.byteLength });
}

async function run(pixels: Float32Array, dims: number[]): Promise<void> {
  const results = await session.run({ [session.inputNames[0]]: new ort.Tensor('float32', pixels, dims) });
  const outputs: Record<string, Float32Array> = {};
  for (const [name, tensor] of Object.entries(results)) {
    outputs[name] = Float32Array.from((await tensor.getData()) as Float32Array);
    tensor.dispose();
  }
  say({ kind: 'ran', outputs }, Object.values(outputs).map((values) => values.buffer));
}

async function time(pixels: Float32Array, dims: number[], iterations: number): Promise<void> {
  const times: number[] = [];
  for (let i = 0; i < iterations; i++) {
    const start = performance.now();
    const results = await session.run({ [session.inputNames[0]]: new ort.Tensor('float32', pixels, dims) });
    for (const tensor of Object.values(results)) await tensor.getData(); // on a GPU: wait until it is there
    times.push(performance.now() - start);
    Object.values(results).forEach((tensor) => tensor.dispose());
  }
  say({ kind: 'timed', times });
}

/** The file, with progress on the way. Throws when the server has none. */
async function download(url: string): Promise<Uint8Array> {
  const response = await fetch(url).catch(() => {
    throw new Error(`${url} cannot be reached. Is the server still running?`);
  });
  if (!response.ok) throw new Error(`model not found: the server answers ${response.status} for ${url}`);
  const total = Number(response.headers.get('Content-Length')) || 0;
  const parts: Uint8Array[] = [];
  let loaded = 0;
  for (const reader = response.body!.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    loaded += value.length;
    say({ kind: 'loading', loaded, total });
  }
  const whole = new Uint8Array(loaded);
  let end = 0;
  for (const part of parts) {
    whole.set(part, end);
    end += part.length;
  }
  return whole;
}
