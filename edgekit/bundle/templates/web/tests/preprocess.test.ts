// Preprocessing equals edgekit's Python bit for bit, on the images of preprocess.safetensors (written by Python).

import { describe, expect, test } from 'vitest';
import { crop, toPicture, toPixelValues, whole, wholeSize, type Preprocess } from '../src/preprocess';
import { readSafetensors } from '../src/safetensors';
import file from './preprocess.safetensors?inline';

const tensors = readSafetensors(await (await fetch(file)).arrayBuffer());
const names = Object.keys(tensors).filter((key) => key.endsWith('.image')).map((key) => key.replace('.image', ''));

function read(name: string) {
  const { shape: [height, width], data } = tensors[`${name}.image`];
  const expected = tensors[`${name}.pixel_values`];
  const transform: Preprocess = {
    input_size: [expected.shape[1], expected.shape[2]],
    resize: Math.round((Math.min(expected.shape[1], expected.shape[2]) * 256) / 224),
    mean: [0.485, 0.456, 0.406],
    std: [0.229, 0.224, 0.225],
    normalize: 'host',
  };
  return { picture: { width, height, data: data as Uint8Array }, expected: expected.data as Float32Array, transform };
}

test('the file holds images', () => expect(names.length).toBeGreaterThanOrEqual(6));

describe.each(names)('%s', (name) => {
  const { picture, expected, transform } = read(name);

  test('pixel values are those of Python', () => {
    const values = toPixelValues(crop(picture, transform), transform);
    expect(values.length).toBe(expected.length);
    const different = values.findIndex((value, i) => value !== expected[i]);
    expect(different).toBe(-1);
  });

  test('pixel values turn back into the same bytes', () => {
    const bytes = crop(picture, transform);
    expect([...toPicture(toPixelValues(bytes, transform), transform).data]).toEqual([...bytes.data]);
  });
});

test('a graph that normalises gets plain bytes', () => {
  const { picture, transform } = read(names[0]);
  const bytes = crop(picture, transform);
  const values = toPixelValues(bytes, { ...transform, normalize: 'graph' });
  expect(values[0]).toBe(bytes.data[0]);
  expect(values[values.length - 1]).toBe(bytes.data[bytes.data.length - 1]);
});

test('an image too thin to be resized is refused', () => {
  const picture = { width: 1, height: 4_000_000, data: new Uint8Array(0) };
  expect(() => crop(picture, read(names[0]).transform)).toThrow('too thin');
});

describe('a model for images of any size', () => {
  const transform: Preprocess = { ...read(names[0]).transform, input_size: [224, 224], patch: 14, sides: [112, 1022] };
  const of = (height: number, width: number) => ({ height, width, data: new Uint8Array(3 * height * width) });

  test.each([
    [[100, 150], [224, 336]],
    [[480, 640], [224, 294]],
    [[640, 480], [294, 224]],
    [[224, 231], [224, 224]],
    [[224, 245], [224, 252]],
  ])('takes %j whole, as %j', ([height, width], size) => {
    expect(wholeSize(of(height, width), transform)).toEqual(size);
    const picture = whole(of(height, width), transform);
    expect([picture.height, picture.width]).toEqual(size);
  });

  test('refuses what is too long, with the nearest size', () => {
    expect(() => wholeSize(of(100, 700), transform)).toThrow('nearest size is 224x1022');
  });

  test('is told from one of a single size', () => {
    expect(() => wholeSize(of(100, 150), read(names[0]).transform)).toThrow('alone');
  });
});
