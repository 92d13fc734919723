// The bundle in transformers.js, its files only: golden vectors, and what the library's own preprocessing costs.
//   EDGEKIT_BUNDLE=DIR npm test      (default: the bundle that this folder is in)

import './quiet.mjs';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { env, pipeline, RawImage, Tensor, type ImageFeatureExtractionPipeline } from '@huggingface/transformers';
import { beforeAll, describe, expect, test } from 'vitest';
import type { Precision } from '../src/bundle';
import { LEAST_COSINE } from '../src/golden';
import { toPixelValues, type Preprocess } from '../src/preprocess';
import { readSafetensors } from '../src/safetensors';
import { cosine, largestDifference, mean } from '../src/vectors';

env.allowRemoteModels = false;
const bundle = process.env.EDGEKIT_BUNDLE ?? fileURLToPath(new URL('../..', import.meta.url));
const read = (path: string) => readSafetensors(Uint8Array.from(readFileSync(join(bundle, path))).buffer);
const rowOf: { precision: Precision; path: string; preprocess: Preprocess }[] =
  JSON.parse(readFileSync(join(bundle, 'manifest.json'), 'utf8')).artifacts;

const pixels = read('golden/inputs.safetensors').pixel_values;
const pooled = read('golden/outputs.safetensors').pooler_output;
const seen = read('golden/pictures.safetensors');
const pictures = readdirSync(join(bundle, 'golden/pictures')).filter((name) => /\.(png|jpg)$/.test(name));
const count = pixels.shape[0];
const dims = [1, ...pixels.shape.slice(1)];
const nth = (values: Float32Array | Uint8Array, i: number) =>
  values.slice((i * values.length) / count, ((i + 1) * values.length) / count) as Float32Array;

const shapes = existsSync(join(bundle, 'golden/sizes.safetensors')) ? read('golden/sizes.safetensors') : {};

const LEAST_NEAR = 0.95; // its bicubic is another one: seen 0.982 on a large photo
const TRANSPARENT = 'alpha'; // it drops transparency, we lay it on white: another picture
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
    for (let i = 0; i < count; i++) cosines.push(cosine(await features(nth(pixels.data, i)), nth(pooled.data, i)));
    console.log(`${dtype}: least cosine with the golden vectors ${Math.min(...cosines).toFixed(6)}`);
    expect(Math.min(...cosines)).toBeGreaterThanOrEqual(LEAST_COSINE[precision]);
  });

  const free = 'sides' in preprocess; // a file for images of any size
  test.each(free ? Object.keys(shapes).filter((name) => name.endsWith('pixel_values')) : [])('%s', async (name) => {
    const { shape, data } = shapes[name];
    const { pooler_output, last_hidden_state } =
      await extract.model({ pixel_values: new Tensor('float32', data as Float32Array, shape) });
    const wanted = shapes[name.replace('pixel_values', 'pooler_output')].data as Float32Array;
    const near = cosine(Float32Array.from(pooler_output.data), wanted);
    console.log(`${dtype} ${name}: ${last_hidden_state.dims[1]} tokens, cosine with the golden vector ${near.toFixed(6)}`);
    expect(near).toBeGreaterThanOrEqual(LEAST_COSINE[precision]);
  });

  test.each(pictures)('%s through its own preprocessing', async (file) => {
    const name = file.replace(/\.\w+$/, '');
    const [height, width] = preprocess.input_size;
    const ours = toPixelValues({ data: seen[`${name}.crop`].data as Uint8Array, height, width }, preprocess);
    const image = await RawImage.read(join(bundle, 'golden/pictures', file));
    const theirs = Float32Array.from((await extract.processor!(image)).pixel_values.data as Float32Array);
    const far = mean(Array.from(ours, (value, i) => Math.abs(theirs[i] - value)));
    const near = cosine(Float32Array.from((await extract(image, { pool: true })).data as Float32Array), await features(ours));
    console.log(`${dtype} ${file}: pixel values differ by ${far.toFixed(3)} on average, ` +
      `${largestDifference(ours, theirs).toFixed(2)} at most; cosine of the features ${near.toFixed(6)}`);
    expect(theirs.length).toBe(ours.length);
    if (name !== TRANSPARENT) expect(near).toBeGreaterThan(LEAST_NEAR);
  });
});
