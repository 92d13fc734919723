// What the bundle holds: its ONNX models with their preprocessing, and the golden files.

import type { Preprocess } from './preprocess';
import { readSafetensors, type Tensor } from './safetensors';

export type Precision = 'fp32' | 'fp16' | 'w8' | 'w8a8' | 'w4a8';

/** One row of the manifest: an ONNX model that a browser can run. */
export interface Model {
  name: string;
  precision: Precision;
  path: string;
  size_mb: number;
  preprocess: Preprocess;
}

export interface Bundle {
  name: string;
  patch: number; // pixels along the edge of one patch
  models: Model[];
}

/** Golden inputs and the FP32 reference's outputs. */
export interface Golden {
  pixels: Float32Array[]; // each (3, H, W)
  hidden: Float32Array[]; // each (tokens, width)
  pooled: Float32Array[]; // each (width)
}

interface Row extends Model {
  format: string;
  variant: string;
  status: string;
}

export const urlOf = (path: string): string => new URL(`bundle/${path}`, document.baseURI).href;

async function get(path: string): Promise<Response> {
  const response = await fetch(urlOf(path)).catch(() => {
    throw new Error(`${path} cannot be reached. Is the server still running?`);
  });
  if (!response.ok) throw new Error(`the bundle has no ${path} (the server answers ${response.status}). Make one: edgekit bundle OUT --to DIR, then npm run build`);
  return response;
}

/** Read manifest.json. Throws when it is missing or names no model that a browser can run. */
export async function readBundle(): Promise<Bundle> {
  const manifest: { model: { name: string; config: { patch: number } }; artifacts: Row[] } = await (await get('manifest.json')).json();
  const models = manifest.artifacts.filter((row) => row.format === 'onnx' && row.variant === 'standard' && row.status === 'ok');
  if (models.length === 0) throw new Error('the bundle holds no ONNX model. Build one: edgekit build --format onnx');
  return { name: manifest.model.name, patch: manifest.model.config.patch, models };
}

/** Read both golden files. */
export async function readGolden(): Promise<Golden> {
  const read = async (path: string) => readSafetensors(await (await get(path)).arrayBuffer());
  const [inputs, outputs] = await Promise.all([read('golden/inputs.safetensors'), read('golden/outputs.safetensors')]);
  return {
    pixels: images(inputs, 'pixel_values'),
    hidden: images(outputs, 'last_hidden_state'),
    pooled: images(outputs, 'pooler_output'),
  };
}

/** The slices of a tensor along its first axis. */
function images(tensors: Record<string, Tensor>, name: string): Float32Array[] {
  const { shape, data } = tensors[name] ?? {};
  if (!shape || !(data instanceof Float32Array)) throw new Error(`the golden files lack ${name} as float32`);
  const size = data.length / shape[0];
  return Array.from({ length: shape[0] }, (_, i) => data.slice(i * size, (i + 1) * size));
}
