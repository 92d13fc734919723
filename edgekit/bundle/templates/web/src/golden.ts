// The self-check: golden inputs through a model and golden pictures through decoding, preprocessing and the model.

import type { Golden, Model, Precision } from './bundle';
import { decode } from './decode';
import type { Engine } from './engine';
import { crop } from './preprocess';
import { cosine, largestDifference, mean, rows, sqnrDb } from './vectors';

/** Least cosine of the class token that tells a working model from a broken one; as in edgekit/golden.py. */
export const LEAST_COSINE: Record<Precision, number> = { fp32: 0.999999, fp16: 0.9999, w8: 0.99, w8a8: 0.99, w8a16: 0.99, w4: 0.8, w4a8: 0.8 };

/** Levels of 255: most that the crop of a picture may differ on average, since decoders of JPEG do. */
const MOST_DIFFERENCE = 1;

/** How a model did; each figure is the worst over the images unless it says otherwise. */
export interface GoldenCheck {
  images: number;
  poolerCosine: number;
  meanPoolerCosine: number;
  tokenCosine: number;
  largestDifference: number; // of last_hidden_state
  sqnrDb: number; // of all tokens of all images
  least: number;
  passed: boolean;
}

/** How the golden pictures did, from their files on; the worst of them. */
export interface PictureCheck {
  pictures: number;
  difference: number; // mean of a crop, in levels of 255
  cosine: number;
  passed: boolean;
}

export async function checkGolden(engine: Engine, model: Model, golden: Golden, signal?: AbortSignal): Promise<GoldenCheck> {
  const [height, width] = model.preprocess.input_size;
  if (golden.pixels[0].length !== 3 * height * width) {
    throw new Error(`the golden inputs are not of ${width} × ${height} pixels, which ${model.name} takes`);
  }
  const pooler: number[] = [];
  const tokens: number[] = [];
  const differences: number[] = [];
  const hiddens: Float32Array[] = [];
  for (const [i, pixels] of golden.pixels.entries()) {
    const { last_hidden_state: hidden, pooler_output: pooled } = await engine.run(pixels, signal);
    const [actual, expected] = [hidden, golden.hidden[i]].map((values) => rows(values, pooled.length));
    pooler.push(cosine(pooled, golden.pooled[i]));
    tokens.push(...actual.map((token, t) => cosine(token, expected[t])));
    differences.push(largestDifference(hidden, golden.hidden[i]));
    hiddens.push(hidden);
  }
  const least = LEAST_COSINE[model.precision];
  const poolerCosine = Math.min(...pooler);
  return {
    images: golden.pixels.length,
    poolerCosine,
    meanPoolerCosine: mean(pooler),
    tokenCosine: Math.min(...tokens),
    largestDifference: Math.max(...differences),
    sqnrDb: sqnrDb(hiddens, golden.hidden),
    least,
    passed: poolerCosine >= least, // false for NaN as well
  };
}

export async function checkPictures(engine: Engine, model: Model, golden: Golden, signal?: AbortSignal): Promise<PictureCheck> {
  const differences: number[] = [];
  const cosines: number[] = [];
  for (const picture of golden.pictures) {
    const whole = await decode(picture.file, picture.name);
    const own = crop(whole, model.preprocess);
    differences.push(mean(Array.from(own.data, (level, i) => Math.abs(level - picture.crop[i]))));
    const { pooler_output: pooled } = await engine.embed(whole, signal);
    cosines.push(cosine(pooled, picture.pooled));
  }
  const [difference, least] = [Math.max(...differences), Math.min(...cosines)];
  const passed = difference <= MOST_DIFFERENCE && least >= LEAST_COSINE[model.precision];
  return { pictures: golden.pictures.length, difference, cosine: least, passed };
}
