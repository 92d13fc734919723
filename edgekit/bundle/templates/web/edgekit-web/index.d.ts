/** What happens while a model is loaded: bytes so far, and of the whole file; `total` is 0 where the server does not say. */
export type Progress = (loaded: number, total: number) => void;

export interface LoadOptions {
  onProgress?: Progress | undefined;
  /** Ends the download, and rejects with its reason. */
  signal?: AbortSignal | undefined;
  /** Cache Storage that keeps model and library for use without a network; null keeps nothing. Default: "edgekit". */
  cache?: string | null | undefined;
  /** False runs the model in the calling thread. Default: a worker of its own, where there are workers (Node has none). */
  worker?: boolean | undefined;
  /** An instruction set of `Model.isas`, for tests and measurements. Default: the best that this engine computes exactly. */
  isa?: string | undefined;
}

export interface Tensor {
  shape: number[];
  data: Float32Array;
}

/** Upright 8-bit RGB, rows top to bottom. */
export interface Picture {
  width: number;
  height: number;
  data: Uint8Array | Uint8ClampedArray;
}

/** What a model takes: transparent pixels are laid on white, nothing else changes colours. */
export type Image = Picture | ImageData | CanvasImageSource;

export interface Features {
  /** (count, width): class token, register tokens if any, then the patches row by row; after the final norm. */
  tokens: Tensor;
  /** (width): the class token. */
  pooled: Float32Array;
  /** Outputs of the model's heads by name, `logits` for example, without the batch axis. */
  heads: Record<string, Tensor>;
  /** Rows and columns of patches. */
  grid: [rows: number, columns: number];
  /** Time of the computation alone. */
  milliseconds: number;
}

/** What the file says of itself: the JSON of docs/runtime.md. */
export interface Description {
  manifest: {
    name: string;
    precision: string;
    preprocess: { input_size: [height: number, width: number]; normalize: 'host' | 'graph' } & Record<string, unknown>;
    outputs?: unknown;
  } & Record<string, unknown>;
  network: { width: number; depth: number; patch: number; registers: number } & Record<string, unknown>;
  [key: string]: unknown;
}

export interface CallOptions {
  /** Rejects with its reason; a picture that is being computed is finished and dropped. */
  signal?: AbortSignal | undefined;
  /** Height and width in pixels that the picture is made; default: what the model was built for. */
  size?: [height: number, width: number] | undefined;
}

/** One loaded model. Calls wait for each other. */
export interface Model {
  readonly description: Description;
  /** Size of the model's file. */
  readonly bytes: number;
  /** The instruction set in use, and all that this engine computes exactly, best first. */
  readonly isa: string;
  readonly isas: string[];
  /** Resizes and crops as edgekit's Python does, bit for bit, and runs the model. */
  embed(image: Image, options?: CallOptions): Promise<Features>;
  /** Runs the model on (3, H, W) values, normalised unless `preprocess.normalize` is "graph". */
  run(values: Float32Array, options?: CallOptions): Promise<Features>;
  /** What the model sees of an image, before normalisation. */
  crop(image: Image, options?: CallOptions): Promise<Picture>;
  /** Self-test with the picture and the FP32 features of the file: the cosine. Rejects where it is too low. */
  check(): Promise<number>;
  /** Frees the model; calls that wait are rejected. */
  close(): void;
}

/** Load a model from a URL, or from the bytes of its file. Rejects, saying why, where that fails. */
export function load(source: string | URL | ArrayBuffer | Uint8Array, options?: LoadOptions): Promise<Model>;

/** The pixels of an image, transparency laid on white. */
export function toPicture(image: Image): Picture;
