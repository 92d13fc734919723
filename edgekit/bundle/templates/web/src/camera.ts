// The camera as a source of pictures, and what a model makes of it frame by frame.

import { toPicture } from '@edgekit/web';
import { drawPicture } from './draw';
import type { Engine } from './engine';
import { pcaColours } from './pca';
import type { Preprocess } from './preprocess';
import { quantile, rows } from './vectors';

const SHOWN = 20; // frames that the shown time is the median of

export interface Live {
  photo: HTMLCanvasElement; // the part of the frame that the model sees
  patches: HTMLCanvasElement;
  notify: (text: string) => void;
}

/** Features of frame after frame, as fast as the model is, until `signal` says stop. Throws where there is no camera. */
export async function live(engine: Engine, transform: Preprocess, patch: number, { photo, patches, notify }: Live, signal: AbortSignal) {
  const video = await openCamera();
  const [height, width] = transform.input_size;
  const columns = width / patch;
  const count = (height / patch) * columns;
  const times: number[] = [];
  try {
    while (!signal.aborted) {
      drawCentre(photo, video, transform);
      const begin = performance.now();
      const { last_hidden_state: hidden, pooler_output: pooled } = await engine.embed(toPicture(video), signal);
      times.push(performance.now() - begin);
      const [colours] = pcaColours([rows(hidden, pooled.length).slice(-count)]);
      drawPicture(patches, { width: columns, height: count / columns, data: colours });
      const usual = quantile(times.slice(-SHOWN), 0.5);
      notify(`${times.length} frames; ${Math.round(usual)} ms each, resizing included`);
      await new Promise((resolve) => requestAnimationFrame(resolve));
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    (video.srcObject as MediaStream).getTracks().forEach((track) => track.stop());
  }
}

async function openCamera(): Promise<HTMLVideoElement> {
  if (!navigator.mediaDevices) throw new Error('no camera here: browsers give one to https pages and to localhost only');
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } }).catch((error: Error) => {
    throw new Error(error.name === 'NotAllowedError' ? 'the camera is not allowed for this page' : 'no camera was found');
  });
  const video = Object.assign(document.createElement('video'), { srcObject: stream, muted: true, playsInline: true });
  await video.play();
  return video;
}

/** The square, or other crop, of a frame that the transform takes. */
function drawCentre(canvas: HTMLCanvasElement, video: HTMLVideoElement, { input_size: [height, width], resize }: Preprocess): void {
  const scale = Math.max(resize / Math.min(video.videoWidth, video.videoHeight), height / video.videoHeight, width / video.videoWidth);
  const [w, h] = [width / scale, height / scale];
  Object.assign(canvas, { width, height });
  canvas.getContext('2d')!.drawImage(video, (video.videoWidth - w) / 2, (video.videoHeight - h) / 2, w, h, 0, 0, width, height);
}
