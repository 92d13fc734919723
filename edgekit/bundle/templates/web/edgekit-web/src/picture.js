// @ts-check
// The pixels of whatever a browser calls an image, as upright 8-bit RGB, transparency laid on white.

/** @import { Image, Picture } from '../index.d.ts' */

/** @type {(image: Image) => Picture} */
export function toPicture(image) {
  if ('data' in image) {
    const { width, height, data } = image;
    const channels = data.length / (width * height);
    if (channels === 3) return { width, height, data: /** @type {Uint8Array} */ (data) };
    if (channels === 4) return { width, height, data: onWhite(/** @type {Uint8ClampedArray} */ (data)) };
    throw new Error(`${data.length} bytes are no picture of ${width} × ${height} pixels with 3 or 4 channels`);
  }
  const [width, height] = sizeOf(image);
  const context = width * height > 0 ? new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true }) : null;
  if (!context) throw new Error(`an image of ${width} × ${height} pixels cannot be read: empty, or too large for this browser`);
  context.fillStyle = 'white';
  context.fillRect(0, 0, width, height);
  context.drawImage(image, 0, 0, width, height);
  return { width, height, data: onWhite(context.getImageData(0, 0, width, height).data) };
}

/** Width and height in the image's own pixels. @param {CanvasImageSource} image */
function sizeOf(image) {
  if ('videoWidth' in image) return [image.videoWidth, image.videoHeight];
  if ('naturalWidth' in image) return [image.naturalWidth, image.naturalHeight];
  if ('displayWidth' in image) return [image.displayWidth, image.displayHeight];
  if (typeof image.width === 'number' && typeof image.height === 'number') return [image.width, image.height];
  throw new Error('an SVG element has no pixels: draw it on a canvas');
}

/** RGB of RGBA, in the integer arithmetic of Pillow's alpha_composite. @param {Uint8Array | Uint8ClampedArray} rgba */
function onWhite(rgba) {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let i = 0, o = 0; i < rgba.length; i += 4, o += 3) {
    const share = rgba[i + 3] * 128; // of 255 * 128
    for (let c = 0; c < 3; c++) {
      const sum = rgba[i + c] * share + 255 * (255 * 128 - share) + (128 << 7);
      rgb[o + c] = ((sum >> 8) + sum) >> 15;
    }
  }
  return rgb;
}
