// A model in ONNX Runtime Web, in a worker of its own.

import type { Engine, Outputs, Placement, Progress } from './engine';
import { crop, toPixelValues, type Preprocess } from './preprocess';
import type { Picture } from './resample';

export type Request =
  | { kind: 'open'; url: string; placement: Placement }
  | { kind: 'run'; pixels: Float32Array; dims: number[] }
  | { kind: 'time'; pixels: Float32Array; dims: number[]; iterations: number };

export type Answer =
  | { kind: 'loading'; loaded: number; total: number }
  | { kind: 'opened'; outputs: string[]; bytes: number }
  | { kind: 'ran'; outputs: Outputs }
  | { kind: 'timed'; times: number[] }
  | { kind: 'failed'; message: string };

type Final = Exclude<Answer, { kind: 'loading' }>;

export class OrtEngine implements Engine {
  bytes = 0;
  private last: Promise<unknown> = Promise.resolve();

  private constructor(private readonly worker: Worker, private readonly transform: Preprocess) {}

  static async open(
    url: string, transform: Preprocess, placement: Placement, progress?: Progress, signal?: AbortSignal,
  ): Promise<OrtEngine> {
    const engine = new OrtEngine(new Worker(new URL('./ort.worker.ts', import.meta.url), { type: 'module' }), transform);
    try {
      engine.bytes = (await engine.ask({ kind: 'open', url, placement }, 'opened', signal, progress)).bytes;
      return engine;
    } catch (error) {
      engine.close(); // which ends the download too
      throw error;
    }
  }

  async run(pixels: Float32Array, signal?: AbortSignal): Promise<Outputs> {
    return (await this.ask({ kind: 'run', pixels, dims: this.dims }, 'ran', signal)).outputs;
  }

  embed(picture: Picture, signal?: AbortSignal): Promise<Outputs> {
    return this.run(toPixelValues(crop(picture, this.transform), this.transform), signal);
  }

  async time(pixels: Float32Array, iterations: number, signal?: AbortSignal): Promise<number[]> {
    return (await this.ask({ kind: 'time', pixels, dims: this.dims, iterations }, 'timed', signal)).times;
  }

  close(): void {
    this.worker.terminate();
  }

  private get dims(): number[] {
    return [1, 3, ...this.transform.input_size];
  }

  /** The worker's answer. An abort rejects at once; the worker finishes what it is at, and those that come next wait for it. */
  private ask<K extends Final['kind']>(
    request: Request, kind: K, signal?: AbortSignal, progress?: Progress,
  ): Promise<Extract<Final, { kind: K }>> {
    const answer = this.last.then(() => new Promise<Extract<Final, { kind: K }>>((resolve, reject) => {
      signal?.throwIfAborted();
      this.worker.onmessage = ({ data }: MessageEvent<Answer>) => {
        if (data.kind === 'loading') progress?.(data.loaded, data.total);
        else if (data.kind === kind) resolve(data as Extract<Final, { kind: K }>);
        else reject(new Error(data.kind === 'failed' ? data.message : `unexpected answer: ${data.kind}`));
      };
      this.worker.onerror = (event) => reject(new Error(event.message || 'the worker could not be started'));
      this.worker.postMessage(request);
    }));
    this.last = answer.catch(() => {});
    if (!signal) return answer;
    return new Promise((resolve, reject) => {
      const abort = () => reject(signal.reason);
      signal.addEventListener('abort', abort);
      answer.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
    });
  }
}
