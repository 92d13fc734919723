// A loaded model, whatever runs it: edgekit's own library for .edgekit files, ONNX Runtime Web for ONNX files.

import { urlOf, type Model } from './bundle';
import { EdgekitEngine } from './edgekit';
import { OrtEngine } from './ort';
import type { Picture } from './resample';

export type Provider = 'wasm' | 'webgpu';

/** Where a model runs; `threads` are those of WebAssembly. */
export interface Placement {
  provider: Provider;
  threads: number;
}

export type Outputs = Record<string, Float32Array>;
export type Progress = (loaded: number, total: number) => void;

/** One loaded model, in a worker of its own. Requests wait for each other; an aborted one rejects with the signal's reason. */
export interface Engine {
  readonly bytes: number; // of the model's file
  /** Outputs for one image, (3, H, W) float32. */
  run(pixels: Float32Array, signal?: AbortSignal): Promise<Outputs>;
  /** Outputs for one picture of any size. */
  embed(picture: Picture, signal?: AbortSignal): Promise<Outputs>;
  /** Milliseconds of each of `iterations` runs. */
  time(pixels: Float32Array, iterations: number, signal?: AbortSignal): Promise<number[]>;
  close(): void;
}

/** Download and load a model. */
export function openEngine(model: Model, placement: Placement, progress?: Progress, signal?: AbortSignal): Promise<Engine> {
  const open = model.format === 'edgekit' ? EdgekitEngine.open : OrtEngine.open;
  return open(urlOf(model.path), model.preprocess, placement, progress, signal);
}

/** Whether a model can run there: edgekit's library has WebAssembly on one thread. */
export function runsOn(model: Model, { provider, threads }: Placement): boolean {
  return model.format === 'onnx' || (provider === 'wasm' && threads === 1);
}
