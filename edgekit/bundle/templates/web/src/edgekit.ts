// A model in edgekit's own library, through the package @edgekit/web.

import { load, type Features, type Model } from '@edgekit/web';
import type { Engine, Outputs, Placement, Progress } from './engine';
import type { Preprocess } from './preprocess';
import type { Picture } from './resample';

export class EdgekitEngine implements Engine {
  private constructor(private readonly model: Model, private readonly size: [number, number]) {}

  static async open(
    url: string, { input_size: size }: Preprocess, _: Placement, onProgress?: Progress, signal?: AbortSignal,
  ): Promise<EdgekitEngine> {
    return new EdgekitEngine(await load(url, { onProgress, signal }), size);
  }

  get bytes(): number {
    return this.model.bytes;
  }

  async run(pixels: Float32Array, signal?: AbortSignal): Promise<Outputs> {
    return outputsOf(await this.model.run(pixels, { signal, size: this.size }));
  }

  async embed(picture: Picture, signal?: AbortSignal): Promise<Outputs> {
    return outputsOf(await this.model.embed(picture, { signal, size: this.size }));
  }

  async time(pixels: Float32Array, iterations: number, signal?: AbortSignal): Promise<number[]> {
    const times: number[] = [];
    while (times.length < iterations) times.push((await this.model.run(pixels, { signal, size: this.size })).milliseconds);
    return times;
  }

  close(): void {
    this.model.close();
  }
}

/** Under the names that all formats share. */
function outputsOf({ tokens, pooled, heads }: Features): Outputs {
  const named = Object.entries(heads).map(([name, { data }]) => [name, data] as const);
  return { last_hidden_state: tokens.data, pooler_output: pooled, ...Object.fromEntries(named) };
}
