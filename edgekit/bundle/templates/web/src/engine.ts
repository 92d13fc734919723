// A model that runs in a worker of its own: open, run, time, close.

export type Provider = 'wasm' | 'webgpu';

/** Where a model runs; `threads` are those of WebAssembly. */
export interface Placement {
  provider: Provider;
  threads: number;
}

export type Outputs = Record<string, Float32Array>;

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
type Progress = (loaded: number, total: number) => void;

/** One loaded model. Requests wait for each other. */
export class Engine {
  outputs: string[] = [];
  bytes = 0;
  private last: Promise<unknown> = Promise.resolve();

  private constructor(
    private readonly worker: Worker,
    private readonly dims: number[],
  ) {}

  /** Download and load a model. `size` is (height, width) of its input. */
  static async open(url: string, placement: Placement, size: [number, number], progress?: Progress): Promise<Engine> {
    const worker = new Worker(new URL('./engine.worker.ts', import.meta.url), { type: 'module' });
    const engine = new Engine(worker, [1, 3, ...size]);
    try {
      const { outputs, bytes } = await engine.ask({ kind: 'open', url, placement }, 'opened', progress);
      return Object.assign(engine, { outputs, bytes });
    } catch (error) {
      worker.terminate();
      throw error;
    }
  }

  /** Outputs for one image, (3, H, W) float32; a model for images of any size is told (height, width). */
  async run(pixels: Float32Array, size?: [number, number]): Promise<Outputs> {
    return (await this.ask({ kind: 'run', pixels, dims: size ? [1, 3, ...size] : this.dims }, 'ran')).outputs;
  }

  /** Milliseconds of each of `iterations` runs. */
  async time(pixels: Float32Array, iterations: number): Promise<number[]> {
    return (await this.ask({ kind: 'time', pixels, dims: this.dims, iterations }, 'timed')).times;
  }

  close(): void {
    this.worker.terminate();
  }

  private ask<K extends Final['kind']>(request: Request, kind: K, progress?: Progress): Promise<Extract<Final, { kind: K }>> {
    const answer = this.last.then(() => new Promise<Extract<Final, { kind: K }>>((resolve, reject) => {
      this.worker.onmessage = ({ data }: MessageEvent<Answer>) => {
        if (data.kind === 'loading') progress?.(data.loaded, data.total);
        else if (data.kind === kind) resolve(data as Extract<Final, { kind: K }>);
        else reject(new Error(data.kind === 'failed' ? data.message : `unexpected answer: ${data.kind}`));
      };
      this.worker.onerror = (event) => reject(new Error(event.message || 'the worker could not be started'));
      this.worker.postMessage(request);
    }));
    this.last = answer.catch(() => {});
    return answer;
  }
}
