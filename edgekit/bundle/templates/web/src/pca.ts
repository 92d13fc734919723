// The three main directions of patch tokens as red, green and blue, fitted to all images at once so that colours agree.

import type { Vector } from './vectors';

const ITERATIONS = 60;
const TAIL = 0.02; // of the values beyond black and beyond full colour

/** Colours (rows, 3) in 0..255 of each group of patch tokens; one fit over all groups. */
export function pcaColours(groups: Vector[][]): Uint8ClampedArray[] {
  const tokens = groups.flat();
  const mean = average(tokens);
  const directions = principal(tokens.map((token) => token.map((value, i) => value - mean[i])), 3);
  const project = (token: Vector, d: Vector) => token.reduce((sum, value, i) => sum + (value - mean[i]) * d[i], 0);
  const coordinates = groups.map((group) => directions.map((d) => group.map((token) => project(token, d))));
  const ranges = directions.map((_, c) => range(coordinates.flatMap((group) => group[c])));
  return coordinates.map((group) => {
    const colours = new Uint8ClampedArray(group[0].length * 3);
    group.forEach((values, c) => values.forEach((value, i) => {
      const [low, high] = ranges[c];
      colours[3 * i + c] = (255 * (value - low)) / (high - low || 1);
    }));
    return colours;
  });
}

/** The `count` directions of most variance, unit length: orthogonal iteration on the centred rows. */
export function principal(centred: Vector[], count: number): Vector[] {
  const width = centred[0].length;
  // any start will do but one at right angles to the answer; fixed, so that colours are the same every time
  let directions: Vector[] = Array.from({ length: count }, (_, c) => Float32Array.from({ length: width }, (_, i) => Math.sin((i + 1) * (c + 1.7))));
  for (let step = 0; step < ITERATIONS; step++) {
    const next = directions.map(() => new Float32Array(width));
    for (const row of centred) {
      directions.forEach((direction, c) => {
        let along = 0;
        for (let i = 0; i < width; i++) along += row[i] * direction[i];
        for (let i = 0; i < width; i++) next[c][i] += along * row[i];
      });
    }
    directions = orthonormal(next);
  }
  return directions.map(upright);
}

/** Gram and Schmidt, with unit lengths. */
function orthonormal(vectors: Vector[]): Vector[] {
  const done: Vector[] = [];
  for (const vector of vectors) {
    for (const other of done) {
      const along = vector.reduce((sum, value, i) => sum + value * other[i], 0);
      vector.forEach((value, i) => (vector[i] = value - along * other[i]));
    }
    const length = Math.hypot(...vector) || 1;
    done.push(vector.map((value) => value / length));
  }
  return done;
}

/** A direction has no sign of its own: make its largest entry positive. */
function upright(direction: Vector): Vector {
  const largest = direction.reduce((best, value) => (Math.abs(value) > Math.abs(best) ? value : best), 0);
  return largest < 0 ? direction.map((value) => -value) : direction;
}

function average(tokens: Vector[]): Vector {
  const mean = new Float32Array(tokens[0].length);
  for (const token of tokens) token.forEach((value, i) => (mean[i] += value / tokens.length));
  return mean;
}

/** Low and high quantile: single stray patches do not flatten the colours of all others. */
function range(values: number[]): [number, number] {
  const sorted = values.toSorted((a, b) => a - b);
  const cut = Math.floor(TAIL * (sorted.length - 1));
  return [sorted[cut], sorted[sorted.length - 1 - cut]];
}
