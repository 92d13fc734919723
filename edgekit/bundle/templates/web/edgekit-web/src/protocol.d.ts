/** What passes between the page and its worker. */
import type { Description, LoadOptions, Picture } from '../index.d.ts';

export type Size = [height: number, width: number];

export type Request =
  | { kind: 'open'; source: string | Uint8Array; options: Pick<LoadOptions, 'cache' | 'isa'> }
  | { kind: 'embed'; picture: Picture; size?: Size | undefined }
  | { kind: 'run'; values: Float32Array; size?: Size | undefined }
  | { kind: 'crop'; picture: Picture; size?: Size | undefined }
  | { kind: 'check' };

export interface Opened {
  description: Description;
  bytes: number;
  isa: string;
  isas: string[];
}

export type ToWorker = { id: number; request: Request } | { id: number; abort: true };
export type FromWorker =
  | { id: number; progress: [loaded: number, total: number] }
  | { id: number; value: unknown }
  | { id: number; error: string };
