// The bundle in transformers.js, its files only: golden vectors, and what its own preprocessing costs.
//   EDGEKIT_BUNDLE=DIR EDGEKIT_IMAGES=a.jpg:b.png npm test      (without images: the golden ones)

import { existsSync, readFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { env, pipeline, RawImage, Tensor, type ImageFeatureExtractionPipeline } from '@huggingface/transformers';
import { beforeAll, describe, expect, test } from 'vitest';
import type { Precision } from '../src/bundle';
import { LEAST_COSINE } from '../src/golden';
import { crop, toPicture, toPixelValues, type Preprocess } from '../src/preprocess';
import type { Picture } from '../src/resample';
import { readSafetensors } from '../src/safetensors';
import { cosine, largestDifference, mean } from '../src/vectors';

env.allowRemoteModels = false;
const bundle = process.env.EDGEKIT_BUNDLE ?? fileURLToPath(new URL('../..', import.meta.url));
const read = (path: string) => readSafetensors(Uint8Array.from(readFileSync(join(bundle, path))).buffer);
const rowOf: { precision: Precision; path: string; preprocess: Preprocess }[] =
  JSON.parse(readFileSync(join(bundle, 'manifest.json'), 'utf8')).artifacts;

const pixels = read('golden/inputs.safetensors').pixel_values;
const pooled = read('golden/outputs.safetensors').pooler_output;
const [, width] = pooled.shape;
const dims = [1, ...pixels.shape.slice(1)];
const size = dims.reduce((product, length) => product * length, 1);
const image = (i: number) => pixels.data.slice(i * size, (i + 1) * size) as Float32Array;
const expected = (i: number) => pooled.data.slice(i * width, (i + 1) * width) as Float32Array;

const models = [['fp32', 'model.onnx'], ['fp16', 'model_fp16.onnx'], ['q8', 'model_quantized.onnx']] as const;

describe.each(models.filter(([, file]) => existsSync(join(bundle, 'onnx', file))))('%s', (dtype, file) => {
  const { precision, preprocess } = rowOf.find((row) => row.path === `onnx/${file}`)!;
  let extract: ImageFeatureExtractionPipeline;
  beforeAll(async () => {
    extract = await pipeline('image-feature-extraction', bundle, { dtype });
  });

  async function features(values: Float32Array): Promise<Float32Array> {
    const { pooler_output } = await extract.model({ pixel_values: new Tensor('float32', values, dims) });
    return Float32Array.from(pooler_output.data);
  }

  test('golden pixels give golden vectors', async () => {
    const cosines: number[] = [];
    for (let i = 0; i < pixels.shape[0]; i++) cosines.push(cosine(await features(image(i)), expected(i)));
    console.log(`${dtype}: least cosine with the golden vectors ${Math.min(...cosines).toFixed(6)}`);
    expect(Math.min(...cosines)).toBeGreaterThanOrEqual(LEAST_COSINE[precision]);
  });

  test('from images, its preprocessing is near to ours', async () => {
    const drift: number[] = [];
    for (const [name, raw] of await images(preprocess)) {
      const picture: Picture = { width: raw.width, height: raw.height, data: raw.data as Uint8Array };
      const ours = toPixelValues(crop(picture, preprocess), preprocess);
      const theirs = Float32Array.from((await extract.processor!(raw)).pixel_values.data as Float32Array);
      const pooled = Float32Array.from((await extract(raw, { pool: true })).data as Float32Array);
      const differences = Array.from(ours, (value, i) => theirs[i] - value);
      const far = mean(differences.map(Math.abs));
      drift.push(cosine(await features(ours), pooled));
      console.log(`${dtype} ${name}: pixel values differ by ${far.toFixed(3)} on average, ` +
        `${largestDifference(ours, theirs).toFixed(2)} at most; cosine of the features ${drift.at(-1)!.toFixed(6)}`);
      expect(Math.abs(mean(differences))).toBeLessThan(0.1); // normalised twice or not at all: 1 or more
    }
    expect(Math.min(...drift)).toBeGreaterThan(0.98);
  });
});

async function images(transform: Preprocess): Promise<[string, RawImage][]> {
  const paths = process.env.EDGEKIT_IMAGES?.split(delimiter) ?? [];
  if (paths.length > 0) return Promise.all(paths.map(async (path) => [path, (await RawImage.read(path)).rgb()]));
  return Array.from({ length: pixels.shape[0] }, (_, i) => {
    const { data, width, height } = toPicture(image(i), transform);
    return [`golden ${i + 1}`, new RawImage(data as Uint8ClampedArray, width, height, 3)];
  });
}
