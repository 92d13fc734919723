// The self-check: golden inputs through a model, outputs beside the FP32 reference's.

import type { Golden, Model, Precision } from './bundle';
import type { Engine } from './engine';
import { cosine, largestDifference, mean, rows, sqnrDb } from './vectors';

/** Least cosine of the class token that tells a working model from a broken one; as in edgekit/golden.py. */
export const LEAST_COSINE: Record<Precision, number> = { fp32: 0.999999, fp16: 0.9999, w8: 0.99, w8a8: 0.99, w4a8: 0.8 };

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

export async function checkGolden(engine: Engine, model: Model, golden: Golden): Promise<GoldenCheck> {
  const [height, width] = model.preprocess.input_size;
  if (golden.pixels[0].length !== 3 * height * width) {
    throw new Error(`the golden inputs are not of ${width} × ${height} pixels, which ${model.name} takes`);
  }
  const pooler: number[] = [];
  const tokens: number[] = [];
  const differences: number[] = [];
  const hiddens: Float32Array[] = [];
  for (const [i, pixels] of golden.pixels.entries()) {
    const { last_hidden_state: hidden, pooler_output: pooled } = await engine.run(pixels);
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
