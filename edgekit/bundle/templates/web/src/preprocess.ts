// The eval transform: shortest edge by bicubic and centre crop, or the whole picture resized; equal to edgekit's in Python.

import { resize, type Picture } from './resample';

/** How pixels become `pixel_values`: the `preprocess` of an artifact in the manifest. */
export interface Preprocess {
  input_size: [number, number]; // (height, width) of the crop
  resize: number; // length of the shortest edge before the crop
  mean: [number, number, number];
  std: [number, number, number];
  normalize: 'host' | 'graph'; // who normalises; "graph": the model takes RGB 0..255
  patch?: number; // pixels of a patch's edge, 14 unless it says otherwise
  sides?: [number, number]; // shortest and longest side of a model for images of any size
  whole_image?: object; // there where pictures are resized whole, without a crop
}

const MAX_RESIZED_PIXELS = 100_000_000;

/** What the model sees, resized and cropped but still bytes. Throws on an image too thin to be resized in memory. */
export function crop(picture: Picture, transform: Preprocess): Picture {
  const [height, width] = transform.input_size;
  const [fullWidth, fullHeight] = resizedSize(picture, transform);
  if (fullWidth * fullHeight > MAX_RESIZED_PIXELS) {
    throw new Error(`the image is too thin: ${picture.width} × ${picture.height} pixels`);
  }
  const full = resize(picture, fullWidth, fullHeight);
  const left = roundHalfEven((fullWidth - width) / 2);
  const top = roundHalfEven((fullHeight - height) / 2);
  const data = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; y++) {
    const start = ((top + y) * fullWidth + left) * 3;
    data.set(full.data.subarray(start, start + width * 3), y * width * 3);
  }
  return { data, width, height };
}

/** (height, width) of a whole picture for a model for any size: `side` is what its shorter edge becomes, as in Python. */
export function wholeSize(picture: Picture, transform: Preprocess, side = Math.min(...transform.input_size)): [number, number] {
  const { patch = 14, sides } = transform;
  if (!sides) throw new Error(`the model takes ${transform.input_size.join('x')} alone`);
  const [least, most] = [Math.ceil(sides[0] / patch), Math.floor(sides[1] / patch)];
  const wanted = [picture.height, picture.width].map((edge) => (edge * side) / Math.min(picture.width, picture.height));
  const found = wanted.map((edge) => Math.min(Math.max(roundHalfEven(edge / patch), least), most) * patch);
  if (found.some((edge, i) => Math.abs(edge - wanted[i]) > patch)) {
    throw new Error(`the image is longer than the model takes; the nearest size is ${found.join('x')}`);
  }
  return [found[0], found[1]];
}

/** A whole picture, nothing cropped, as a model for any size sees it. */
export function whole(picture: Picture, transform: Preprocess, side?: number): Picture {
  const [height, width] = wholeSize(picture, transform, side);
  return resize(picture, width, height);
}

/** (3, H, W) float32 of a crop: normalised on the host, or 0..255 where the graph does it. */
export function toPixelValues({ data, width, height }: Picture, transform: Preprocess): Float32Array {
  const plane = width * height;
  const values = new Float32Array(3 * plane);
  for (let c = 0; c < 3; c++) {
    const level = levels(transform, c);
    for (let i = 0; i < plane; i++) values[c * plane + i] = level[data[3 * i + c]];
  }
  return values;
}

/** The bytes behind `pixel_values`, for showing them: the inverse of `toPixelValues`. */
export function toPicture(values: Float32Array, transform: Preprocess): Picture {
  const [height, width] = transform.input_size;
  const plane = width * height;
  const data = new Uint8ClampedArray(3 * plane); // rounds and clips
  for (let c = 0; c < 3; c++) {
    for (let i = 0; i < plane; i++) {
      const value = values[c * plane + i];
      data[3 * i + c] = transform.normalize === 'graph' ? value : (value * transform.std[c] + transform.mean[c]) * 255;
    }
  }
  return { data, width, height };
}

/** The value of each byte in channel c, in float32 arithmetic step by step as numpy does it. */
function levels({ normalize, mean, std }: Preprocess, c: number): Float32Array {
  const round = Math.fround;
  return Float32Array.from({ length: 256 }, (_, byte) =>
    normalize === 'graph' ? byte : round(round(round(byte / 255) - round(mean[c])) / round(std[c])));
}

/** (width, height) before the crop: the shorter edge as the transform says, more where the crop needs more. */
function resizedSize(picture: Picture, transform: Preprocess): [number, number] {
  const [cropHeight, cropWidth] = transform.input_size;
  if (transform.whole_image) return [cropWidth, cropHeight];
  const short = transform.resize;
  const long = Math.trunc((short * Math.max(picture.width, picture.height)) / Math.min(picture.width, picture.height));
  const [width, height] = picture.width <= picture.height ? [short, long] : [long, short];
  const missing = Math.max(cropWidth / width, cropHeight / height);
  if (missing <= 1) return [width, height];
  return [Math.max(cropWidth, roundHalfEven(width * missing)), Math.max(cropHeight, roundHalfEven(height * missing))];
}

/** Python's round. */
function roundHalfEven(x: number): number {
  const low = Math.floor(x);
  if (x - low === 0.5) return low % 2 === 0 ? low : low + 1;
  return Math.round(x);
}
