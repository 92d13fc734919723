// @ts-check
// A model in the library's memory: open, embed, run, crop, check, close. It computes in the calling thread.

import { download } from './download.js';
import { instructionSets, Library, libraryUrl } from './library.js';

/** @import { Description, Features, LoadOptions, Picture, Progress, Tensor } from '../index.d.ts' */

const OUTPUT = { bytes: 28, name: 0, values: 4, rank: 8, shape: 12 }; // edgekit_output, on 32 bits

/** The file's fault: no other instruction set would read it. */
class Unsound extends Error {}

export class Engine {
  #library;
  #model = 0;
  #context = 0;
  #isClosed = false;

  /** @param {Library} library */
  constructor(library) {
    this.#library = library;
  }

  /**
   * A model on the best instruction set that passes its self-test.
   * @param {string | Uint8Array} source URL of a model, or its bytes
   * @param {Pick<LoadOptions, 'cache' | 'isa'>} options
   * @param {Progress} [onProgress]
   * @param {AbortSignal} [signal]
   */
  static async open(source, { cache = 'edgekit', isa }, onProgress, signal) {
    const read = (/** @type {string} */ url, /** @type {Progress | undefined} */ progress) => download(url, { cache, signal, onProgress: progress });
    const isas = instructionSets();
    const wanted = isa ? [isa] : isas;
    const [first, bytes] = await Promise.all([
      read(libraryUrl(wanted[0]), undefined),
      typeof source === 'string' ? read(source, onProgress) : source,
    ]);
    for (const [i, name] of wanted.entries()) {
      try {
        const engine = new Engine(await Library.start(i === 0 ? first : await read(libraryUrl(name), undefined)));
        signal?.throwIfAborted();
        engine.#open(bytes);
        engine.check();
        return { engine, description: engine.#description(), bytes: bytes.length, isa: name, isas };
      } catch (error) {
        if (error instanceof Unsound || signal?.aborted || i + 1 === wanted.length) throw error;
        console.warn(`edgekit: ${name} does not compute exactly here, ${wanted[i + 1]} is next: ${error}`);
      }
    }
    throw new Error('no instruction set'); // not reached: the last one has returned or thrown
  }

  /** @param {Uint8Array} bytes */
  #open(bytes) {
    const { exports } = this.#library;
    this.#library.withSpace(8, (handle) => {
      try {
        this.#run(() => this.#library.withCopy(bytes, (address) => exports.edgekit_model_open(address, bytes.length, 0, handle)));
      } catch (error) {
        throw this.#library.isBroken ? error : new Unsound(/** @type {Error} */ (error).message);
      }
      this.#model = this.#library.word(handle);
      this.#run(() => exports.edgekit_context_create(this.#model, 0, handle));
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
      this.#run(() => this.#library.withCopy(data, (rgb) =>
        this.#library.exports.edgekit_model_crop(this.#model, rgb, height, width, 0, rows, columns, to)));
      return { width: columns, height: rows, data: new Uint8Array(this.#library.memory.buffer, to, bytes).slice() };
    });
  }

  check() {
    return this.#library.withSpace(4, (cosine) => {
      this.#run(() => this.#library.exports.edgekit_context_check(this.#context, cosine));
      return this.#library.floats(cosine, 1)[0];
    });
  }

  close() {
    if (!this.#isClosed && !this.#library.isBroken) {
      this.#library.exports.edgekit_context_destroy(this.#context);
      this.#library.exports.edgekit_model_close(this.#model);
    }
    this.#isClosed = true;
  }

  /** @param {() => number} call */
  #run(call) {
    if (this.#isClosed) throw new Error('the model is closed');
    this.#library.run(call);
  }

  /** @returns {[number, number]} */
  #inputSize() {
    return this.#library.withSpace(8, (to) => {
      this.#run(() => this.#library.exports.edgekit_model_input_size(this.#model, to, to + 4));
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
    this.#run(compute);
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
        this.#run(() => exports.edgekit_context_output(this.#context, i, to));
        const rank = this.#library.word(to + OUTPUT.rank);
        const shape = Array.from({ length: rank - 1 }, (_, axis) => this.#library.word(to + OUTPUT.shape + 4 * (axis + 1)));
        const count = shape.reduce((product, side) => product * side, 1);
        const name = this.#library.text(this.#library.word(to + OUTPUT.name));
        outputs[name] = { shape, data: this.#library.floats(this.#library.word(to + OUTPUT.values), count) };
      }
    });
    return outputs;
  }
}
