// @ts-check
// A model in the library's memory: open, embed, run, crop, check, close. It computes in the calling thread.

import { download } from './download.js';
import { Library, libraryUrl } from './library.js';

/** @import { Description, Features, LoadOptions, Picture, Progress, Tensor } from '../index.d.ts' */

const OUTPUT = { bytes: 28, name: 0, values: 4, rank: 8, shape: 12 }; // edgekit_output, on 32 bits

export class Engine {
  #library;
  #model = 0;
  #context = 0;
  #failed = false; // a trap leaves the library's memory in no known state

  /** @param {Library} library */
  constructor(library) {
    this.#library = library;
  }

  /**
   * @param {string | Uint8Array} source URL of a model, or its bytes
   * @param {Pick<LoadOptions, 'cache' | 'isa'>} options
   * @param {Progress} [onProgress]
   * @param {AbortSignal} [signal]
   */
  static async open(source, { cache = 'edgekit', isa }, onProgress, signal) {
    const read = (/** @type {string} */ url, /** @type {Progress} */ progress) => download(url, { cache, signal, onProgress: progress });
    const [code, bytes] = await Promise.all([
      read(libraryUrl().href, undefined),
      typeof source === 'string' ? read(source, onProgress) : source,
    ]);
    const engine = new Engine(await Library.start(code, isa));
    signal?.throwIfAborted();
    engine.#open(bytes);
    return { engine, description: engine.#description(), bytes: bytes.length, isa: engine.#library.isa, isas: engine.#library.isas };
  }

  /** @param {Uint8Array} bytes */
  #open(bytes) {
    const { exports } = this.#library;
    this.#library.withSpace(8, (handle) => {
      this.#guarded(() => this.#library.withCopy(bytes, (address) => exports.edgekit_model_open(address, bytes.length, 0, handle)));
      this.#model = this.#library.word(handle);
      this.#guarded(() => exports.edgekit_context_create(this.#model, 0, handle));
      this.#context = this.#library.word(handle);
    });
  }

  /** @returns {Description} */
  #description() {
    return JSON.parse(this.#library.text(this.#library.exports.edgekit_model_describe(this.#model)));
  }

  /**
   * @param {Picture} picture
   * @param {[number, number]} [size]
   */
  embed({ width, height, data }, size = [0, 0]) {
    return this.#timed(size, () => this.#library.withCopy(data, (rgb) =>
      this.#library.exports.edgekit_context_run_rgb(this.#context, rgb, height, width, 0, ...size)));
  }

  /**
   * @param {Float32Array} values
   * @param {[number, number]} [size]
   */
  run(values, size = this.#inputSize()) {
    const [height, width] = size;
    if (values.length !== 3 * height * width) {
      throw new Error(`${values.length} values are no picture of 3 × ${height} × ${width}`);
    }
    return this.#timed(size, () => this.#library.withCopy(values, (pixels) =>
      this.#library.exports.edgekit_context_run(this.#context, pixels, 1, height, width)));
  }

  /**
   * @param {Picture} picture
   * @param {[number, number]} [size]
   * @returns {Picture}
   */
  crop({ width, height, data }, size) {
    const [rows, columns] = size ?? this.#inputSize();
    const bytes = rows * columns * 3;
    return this.#library.withSpace(bytes, (to) => {
      this.#guarded(() => this.#library.withCopy(data, (rgb) =>
        this.#library.exports.edgekit_model_crop(this.#model, rgb, height, width, 0, rows, columns, to)));
      return { width: columns, height: rows, data: new Uint8Array(this.#library.memory.buffer, to, bytes).slice() };
    });
  }

  check() {
    return this.#library.withSpace(4, (cosine) => {
      this.#guarded(() => this.#library.exports.edgekit_context_check(this.#context, cosine));
      return this.#library.floats(cosine, 1)[0];
    });
  }

  close() {
    if (!this.#failed) {
      this.#library.exports.edgekit_context_destroy(this.#context);
      this.#library.exports.edgekit_model_close(this.#model);
    }
    this.#failed = true;
  }

  /** @returns {[number, number]} */
  #inputSize() {
    return this.#library.withSpace(8, (to) => {
      this.#guarded(() => this.#library.exports.edgekit_model_input_size(this.#model, to, to + 4));
      return [this.#library.word(to), this.#library.word(to + 4)];
    });
  }

  /**
   * @param {[number, number]} size
   * @param {() => number} compute
   * @returns {Features}
   */
  #timed(size, compute) {
    const begin = performance.now();
    this.#guarded(compute);
    const milliseconds = performance.now() - begin;
    const { last_hidden_state: tokens, pooler_output: pooled, ...heads } = this.#outputs();
    const patch = this.#description().network.patch;
    const [height, width] = size[0] ? size : this.#inputSize();
    return { tokens, pooled: pooled.data, heads, grid: [height / patch, width / patch], milliseconds };
  }

  /** All outputs of the last run by name, without the batch axis. */
  #outputs() {
    const { exports } = this.#library;
    /** @type {Record<string, Tensor>} */
    const outputs = {};
    this.#library.withSpace(OUTPUT.bytes, (to) => {
      for (let i = 0; i < exports.edgekit_model_outputs(this.#model); i++) {
        this.#guarded(() => exports.edgekit_context_output(this.#context, i, to));
        const rank = this.#library.word(to + OUTPUT.rank);
        const shape = Array.from({ length: rank - 1 }, (_, axis) => this.#library.word(to + OUTPUT.shape + 4 * (axis + 1)));
        const count = shape.reduce((product, side) => product * side, 1);
        const name = this.#library.text(this.#library.word(to + OUTPUT.name));
        outputs[name] = { shape, data: this.#library.floats(this.#library.word(to + OUTPUT.values), count) };
      }
    });
    return outputs;
  }

  /** Throws unless a call returns 0; after a trap nothing can be called any more. @param {() => number} call */
  #guarded(call) {
    if (this.#failed) throw new Error('the model is closed, or broke in an earlier call: load it again');
    try {
      this.#library.must(call());
    } catch (error) {
      if (!(error instanceof WebAssembly.RuntimeError)) throw error;
      this.#failed = true;
      throw new Error(`out of memory, or a fault of the library (${error.message}): load the model again`);
    }
  }
}
