// An image file becomes upright 8-bit RGB as in edgekit's Python: EXIF applied, transparency on white, no colour management.

import type { Picture } from './resample';

/** Decode at full size; the canvas only hands out the pixels, it resizes nothing. Throws on what is no image. */
export async function decode(file: Blob, name: string): Promise<Picture> {
  const options: ImageBitmapOptions = { imageOrientation: 'from-image', colorSpaceConversion: 'none', premultiplyAlpha: 'default' };
  const bitmap = await createImageBitmap(file, options).catch(() => {
    throw new Error(file.size === 0 ? `${name} is empty` : `${name} is not an image that this browser can read`);
  });
  try {
    return pixelsOf(bitmap, name);
  } finally {
    bitmap.close();
  }
}

function pixelsOf(bitmap: ImageBitmap, name: string): Picture {
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
  if (!context) throw new Error(`${name} is too large for this browser: ${width} × ${height} pixels`);
  context.fillStyle = 'white';
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Uint8Array(width * height * 3);
  for (let i = 0, o = 0; i < rgba.length; i += 4) {
    data[o++] = rgba[i];
    data[o++] = rgba[i + 1];
    data[o++] = rgba[i + 2];
  }
  return { width, height, data };
}
