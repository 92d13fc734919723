// Files, vectors, colours and speedups against values known by hand.

import { describe, expect, test } from 'vitest';
import { pairedSpeedup } from '../src/benchmark';
import { pcaColours, principal } from '../src/pca';
import { readSafetensors } from '../src/safetensors';
import { cosine, largestDifference, quantile, rows, sqnrDb } from '../src/vectors';

const floats = (...values: number[]) => Float32Array.from(values);

describe('safetensors', () => {
  const file = (header: object, data: number[]) => {
    const text = new TextEncoder().encode(JSON.stringify(header));
    const bytes = new Uint8Array(8 + text.length + data.length);
    new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
    bytes.set(text, 8);
    bytes.set(data, 8 + text.length);
    return bytes.buffer;
  };
  const one = { a: { dtype: 'F32', shape: [1], data_offsets: [0, 4] } };

  test('a float', () => expect(readSafetensors(file(one, [0, 0, 128, 63])).a).toEqual({ shape: [1], data: floats(1) }));
  test('cut short', () => expect(() => readSafetensors(file(one, [0, 0]))).toThrow('cut short'));
  test('no header', () => expect(() => readSafetensors(new ArrayBuffer(3))).toThrow('not a safetensors file'));
  test('another dtype', () => {
    expect(() => readSafetensors(file({ a: { ...one.a, dtype: 'F16' } }, [0, 0, 0, 0]))).toThrow('F16');
  });
});

describe('vectors', () => {
  test('cosine', () => expect(cosine(floats(1, 0), floats(1, 1))).toBeCloseTo(Math.SQRT1_2, 12));
  test('rows', () => expect(rows(floats(1, 2, 3, 4), 2)).toEqual([floats(1, 2), floats(3, 4)]));
  test('largest difference', () => expect(largestDifference(floats(1, -5), floats(2, -2))).toBe(3));
  test('NaN is no small difference', () => expect(largestDifference(floats(NaN, 0), floats(0, 0))).toBeNaN());
  test('20 dB', () => expect(sqnrDb([floats(11)], [floats(10)])).toBeCloseTo(20, 5));
  test('at most 150 dB', () => expect(sqnrDb([floats(1)], [floats(1)])).toBe(150));
  test('quantile between two values', () => expect(quantile([3, 1, 2, 4], 0.5)).toBe(2.5));
});

describe('principal components', () => {
  const around = Array.from({ length: 40 }, (_, i) => floats(0.1 * Math.cos(i), 5 * Math.sin(i), Math.cos(3 * i)));

  test('the direction of most variance, upright', () => {
    const [first, second] = principal(around, 2);
    expect(first[1]).toBeCloseTo(1, 2);
    expect(Math.abs(second[2])).toBeCloseTo(1, 2);
  });
  test('equal tokens of two images have one colour', () => {
    const [a, b] = pcaColours([around, [...around.slice(5, 10), floats(9, 9, 9)]]);
    expect([...b.slice(0, 15)]).toEqual([...a.slice(15, 30)]);
  });
  test('tokens that are all alike do not divide by nothing', () => {
    const [colours] = pcaColours([[floats(1, 2, 3), floats(1, 2, 3)]]);
    expect([...colours].every((value) => value === 0)).toBe(true);
  });
});

test('a speedup is the geometric mean of paired rounds', () => {
  const { value, low, high } = pairedSpeedup([[4], [8], [4]], [[2], [2], [4]]); // 2, 4 and 1 times as fast
  expect(value).toBeCloseTo(2, 9);
  expect(low).toBeGreaterThanOrEqual(1);
  expect(low).toBeLessThan(2);
  expect(high).toBeGreaterThan(2);
  expect(high).toBeLessThanOrEqual(4);
});
