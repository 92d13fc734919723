// An image file becomes upright 8-bit RGB as in edgekit's Python: EXIF applied, transparency on white, no colour management.

import { toPicture } from '@edgekit/web';
import type { Picture } from './resample';

/** Decode at full size; the canvas only hands out the pixels, it resizes nothing. Throws on what is no image. */
export async function decode(file: Blob, name: string): Promise<Picture> {
  const options: ImageBitmapOptions = { imageOrientation: 'from-image', colorSpaceConversion: 'none', premultiplyAlpha: 'default' };
  const bitmap = await createImageBitmap(file, options).catch(() => {
    throw new Error(file.size === 0 ? `${name} is empty` : `${name} is not an image that this browser can read`);
  });
  try {
    return toPicture(bitmap);
  } finally {
    bitmap.close();
  }
}
