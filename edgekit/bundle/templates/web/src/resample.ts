// Pillow 13's antialiased bicubic resize of 8-bit RGB, bit for bit: the same windows, weights and integer roundings.

const PRECISION_BITS = 22; // of the fixed-point weights, as in Pillow's Resample.c
const SUPPORT = 2; // of the cubic, in source pixels when enlarging

/** 8-bit RGB, rows top to bottom, three bytes a pixel. */
export interface Picture {
  width: number;
  height: number;
  data: Uint8Array | Uint8ClampedArray; // (height, width, 3)
}

/** Keys' cubic (1981) with a = -0.5. */
function cubic(x: number): number {
  const a = -0.5;
  const t = Math.abs(x);
  if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  if (t < 2) return (((t - 5) * t + 8) * t - 4) * a;
  return 0;
}

/** Where each output pixel reads and with which integer weights. */
function windows(from: number, to: number): { first: Int32Array; weights: Int32Array[] } {
  const scale = from / to;
  const stretch = Math.max(scale, 1); // wider than the cubic when shrinking: this is the antialiasing
  const support = SUPPORT * stretch;
  const first = new Int32Array(to);
  const weights: Int32Array[] = [];
  for (let i = 0; i < to; i++) {
    const centre = (i + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(from, Math.trunc(centre + support + 0.5));
    const real = Array.from({ length: end - start }, (_, k) => cubic((k + start - centre + 0.5) * (1 / stretch)));
    const sum = real.reduce((total, weight) => total + weight, 0);
    const inverse = sum === 0 ? 1 : 1 / sum; // multiplied, not divided: the last bit decides roundings
    first[i] = start;
    weights.push(Int32Array.from(real, (weight) => {
      const fixed = weight * inverse * 2 ** PRECISION_BITS;
      return Math.trunc(fixed + (weight < 0 ? -0.5 : 0.5));
    }));
  }
  return { first, weights };
}

/** Rounded and clipped to 0..255. */
const toByte = (sum: number): number => Math.min(255, Math.max(0, sum >> PRECISION_BITS));

/**
 * Resize to width x height: along the rows, then along the columns, both rounded to bytes. The other way round where
 * the height shrinks by more than twice as many pixels as the width: so does Pillow 13, and it changes roundings.
 */
export function resize(picture: Picture, width: number, height: number): Picture {
  const columnsFirst = picture.height > height && picture.height - height > 2 * (picture.width - width);
  if (columnsFirst) return horizontally(vertically(picture, height), width);
  return vertically(horizontally(picture, width), height);
}

function horizontally({ data, width: from, height }: Picture, width: number): Picture {
  if (from === width) return { data, width, height };
  const { first, weights } = windows(from, width);
  const out = new Uint8Array(width * height * 3);
  const half = 1 << (PRECISION_BITS - 1);
  for (let y = 0, o = 0; y < height; y++) {
    for (let x = 0; x < width; x++, o += 3) {
      let [r, g, b] = [half, half, half];
      let i = (y * from + first[x]) * 3;
      for (const weight of weights[x]) {
        r += data[i++] * weight;
        g += data[i++] * weight;
        b += data[i++] * weight;
      }
      out[o] = toByte(r);
      out[o + 1] = toByte(g);
      out[o + 2] = toByte(b);
    }
  }
  return { data: out, width, height };
}

function vertically({ data, width, height: from }: Picture, height: number): Picture {
  if (from === height) return { data, width, height };
  const { first, weights } = windows(from, height);
  const row = width * 3;
  const out = new Uint8Array(row * height);
  const sums = new Int32Array(row);
  for (let y = 0; y < height; y++) {
    sums.fill(1 << (PRECISION_BITS - 1));
    weights[y].forEach((weight, k) => {
      const start = (first[y] + k) * row;
      for (let i = 0; i < row; i++) sums[i] += data[start + i] * weight;
    });
    for (let i = 0; i < row; i++) out[y * row + i] = toByte(sums[i]);
  }
  return { data: out, width, height };
}
