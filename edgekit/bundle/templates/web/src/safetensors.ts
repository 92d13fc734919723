// Reads float32 and byte tensors of a safetensors file: 8 bytes of header length, a JSON header, then the data.

export interface Tensor {
  shape: number[];
  data: Float32Array | Uint8Array;
}

interface Entry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

/** All tensors by name. Throws when the file is cut short or holds another dtype. */
export function readSafetensors(buffer: ArrayBuffer): Record<string, Tensor> {
  if (buffer.byteLength < 8) throw new Error('not a safetensors file: shorter than its header');
  const start = 8 + Number(new DataView(buffer).getBigUint64(0, true));
  if (start > buffer.byteLength) throw new Error('the safetensors file is cut short');
  const header: Record<string, Entry> = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, start - 8)));
  delete header.__metadata__;
  return Object.fromEntries(Object.entries(header).map(([name, { dtype, shape, data_offsets: [from, to] }]) => {
    if (start + to > buffer.byteLength) throw new Error(`the safetensors file is cut short inside ${name}`);
    const bytes = buffer.slice(start + from, start + to); // a copy: floats need their alignment
    if (dtype === 'F32') return [name, { shape, data: new Float32Array(bytes) }];
    if (dtype === 'U8') return [name, { shape, data: new Uint8Array(bytes) }];
    throw new Error(`${name} is ${dtype}; only F32 and U8 are read here`);
  }));
}
