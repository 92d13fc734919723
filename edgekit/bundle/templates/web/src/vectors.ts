// Arithmetic on feature vectors: cosine, differences, and the signal-to-noise ratio of drift.

export type Vector = Float32Array;

/** Cosine in double precision. */
export function cosine(a: Vector, b: Vector): number {
  let [ab, aa, bb] = [0, 0, 0];
  for (let i = 0; i < a.length; i++) {
    ab += a[i] * b[i];
    aa += a[i] * a[i];
    bb += b[i] * b[i];
  }
  return ab / Math.sqrt(aa * bb);
}

/** The rows of (..., width). */
export function rows(values: Vector, width: number): Vector[] {
  return Array.from({ length: values.length / width }, (_, i) => values.subarray(i * width, (i + 1) * width));
}

/** Largest absolute difference; NaN if any value is NaN. */
export function largestDifference(a: Vector, b: Vector): number {
  let largest = 0;
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs(a[i] - b[i]);
    if (!(difference <= largest)) largest = difference;
    if (Number.isNaN(largest)) return NaN;
  }
  return largest;
}

/** 10 log10 of the energy of what was expected over that of the error, at most 150 dB (the last float32 bit). */
export function sqnrDb(actual: Vector[], expected: Vector[]): number {
  let [signal, noise] = [0, 0];
  actual.forEach((values, n) => {
    for (let i = 0; i < values.length; i++) {
      signal += expected[n][i] ** 2;
      noise += (values[i] - expected[n][i]) ** 2;
    }
  });
  return noise <= signal * 1e-15 ? 150 : 10 * Math.log10(signal / noise);
}

export const mean = (values: number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

/** Linear between the two nearest values, as numpy's; `share` in 0..1. */
export function quantile(values: number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const at = share * (sorted.length - 1);
  const low = Math.floor(at);
  return sorted[low] + (at - low) * (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]);
}
