// What the bundle holds: its models with their preprocessing, and the golden files.

import type { Preprocess } from './preprocess';
import { readSafetensors, type Tensor } from './safetensors';

export type Precision = 'fp32' | 'fp16' | 'w8' | 'w8a8' | 'w8a16' | 'w4' | 'w4a8';

/** One row of the manifest: a model that a browser can run. */
export interface Model {
  name: string;
  format: 'edgekit' | 'onnx';
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

/** Golden inputs and the FP32 reference's outputs; and files that preprocessing gets wrong, with what they must give. */
export interface Golden {
  pixels: Float32Array[]; // each (3, H, W)
  hidden: Float32Array[]; // each (tokens, width)
  pooled: Float32Array[]; // each (width)
  pictures: GoldenPicture[];
}

export interface GoldenPicture {
  name: string;
  file: Blob;
  crop: Uint8Array; // (H, W, 3)
  pooled: Float32Array; // (width)
}

interface Row extends Omit<Model, 'format'> {
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
  const models = manifest.artifacts.filter(isModel);
  if (models.length === 0) throw new Error('the bundle holds no model for browsers. Build some: edgekit build --format edgekit,onnx');
  return { name: manifest.model.name, patch: manifest.model.config.patch, models };
}

const isModel = (row: Row): row is Row & Model =>
  row.status === 'ok' && (row.format === 'edgekit' || (row.format === 'onnx' && row.variant !== 'fused'));

/** "224x224": height and width of a model's input. */
export const sizeOf = (model: Model): string => model.preprocess.input_size.join('x');

/** Read the golden files of a model's image size; those of the main size lie at the top. */
export async function readGolden({ models }: Bundle, model: Model): Promise<Golden> {
  const folder = sizeOf(model) === sizeOf(models[0]) ? 'golden' : `${sizeOf(model)}/golden`;
  const read = async (file: string) => readSafetensors(await (await get(`${folder}/${file}.safetensors`)).arrayBuffer());
  const [inputs, outputs, expected] = await Promise.all([read('inputs'), read('outputs'), read('pictures')]);
  const files: string[] = await (await get('files.json')).json();
  return {
    pixels: images(inputs, 'pixel_values'),
    hidden: images(outputs, 'last_hidden_state'),
    pooled: images(outputs, 'pooler_output'),
    pictures: await Promise.all(files.filter((path) => path.startsWith(`${folder}/pictures/`)).map(async (path) => {
      const [, name] = /([^/]+)\.\w+$/.exec(path)!;
      return {
        name,
        file: await (await get(path)).blob(),
        crop: expected[`${name}.crop`].data as Uint8Array,
        pooled: expected[`${name}.pooler_output`].data as Float32Array,
      };
    })),
  };
}

/** The slices of a tensor along its first axis. */
function images(tensors: Record<string, Tensor>, name: string): Float32Array[] {
  const { shape, data } = tensors[name] ?? {};
  if (!shape || !(data instanceof Float32Array)) throw new Error(`the golden files lack ${name} as float32`);
  const size = data.length / shape[0];
  return Array.from({ length: shape[0] }, (_, i) => data.slice(i * size, (i + 1) * size));
}
