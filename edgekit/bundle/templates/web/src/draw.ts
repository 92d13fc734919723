// Pictures on canvases: a photo, patch colours as squares, saliency as a veil over what does not draw the eye.

import type { Picture } from './resample';

/** Draw RGB bytes; the canvas takes their size, the style sheet scales it. */
export function drawPicture(canvas: HTMLCanvasElement, { width, height, data }: Picture): void {
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    image.data.set([data[3 * i], data[3 * i + 1], data[3 * i + 2], 255], 4 * i);
  }
  Object.assign(canvas, { width, height });
  canvas.getContext('2d')!.putImageData(image, 0, 0);
}

/** The photo, darkened and greyed where saliency (H, W) in 0..1 is low. */
export function drawSaliency(canvas: HTMLCanvasElement, photo: Picture, saliency: Float32Array): void {
  const data = photo.data.map((value, i) => {
    const pixel = i - (i % 3);
    const grey = (photo.data[pixel] + photo.data[pixel + 1] + photo.data[pixel + 2]) / 3;
    const weight = saliency[pixel / 3];
    return weight * value + (1 - weight) * 0.25 * grey;
  });
  drawPicture(canvas, { ...photo, data });
}
