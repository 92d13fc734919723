// @ts-check
// The WebAssembly library of libedgekit: which of its files this engine takes, instantiation, memory, errors.

const FILES = {
  relaxed: new URL('../wasm/edgekit-relaxed.wasm', import.meta.url),
  simd: new URL('../wasm/edgekit-simd.wasm', import.meta.url),
};

// Modules of one function each: i32x4.relaxed_dot_i8x16_i7x16_add_s of three zeros; i8x16.splat of one.
const RELAXED = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 19, 1, 17, 0,
  65, 0, 253, 15, 65, 0, 253, 15, 65, 0, 253, 15, 253, 147, 2, 11];
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11];

/** The file for this engine. A relaxed engine need not be exact: the library looks for itself, see `edgekit_isas`. */
export function libraryUrl() {
  if (WebAssembly.validate(Uint8Array.from(RELAXED))) return FILES.relaxed;
  if (WebAssembly.validate(Uint8Array.from(SIMD))) return FILES.simd;
  throw new Error('this browser has no WebAssembly SIMD, which edgekit needs');
}

const OUT_OF_MEMORY = 2; // edgekit_status
const ENOSYS = 52; // of WASI

/** An instance: its C functions as `exports`, and what it takes to call them. */
export class Library {
  /** @type {Record<string, any>} */
  exports = {};
  /** @type {WebAssembly.Memory} */
  memory = /** @type {any} */ (null);

  /**
   * @param {Uint8Array} bytes of the file
   * @param {string | undefined} isa the instruction set to use; undefined: the best
   */
  static async start(bytes, isa) {
    const module = await WebAssembly.compile(/** @type {BufferSource} */ (bytes));
    const library = new Library();
    const instance = await WebAssembly.instantiate(module, library.#system(module, isa ? [`EDGEKIT_ISA=${isa}`] : []));
    library.exports = instance.exports;
    library.memory = /** @type {WebAssembly.Memory} */ (instance.exports.memory);
    library.exports._initialize();
    if (isa && library.isa !== isa) throw new Error(`this engine does not run ${isa} exactly; it runs ${library.isas.join(', ')}`);
    return library;
  }

  get isa() {
    return this.text(this.exports.edgekit_isa());
  }

  get isas() {
    return this.text(this.exports.edgekit_isas()).split(' ');
  }

  /** @param {number} bytes */
  allocate(bytes) {
    const address = this.exports.malloc(Math.max(bytes, 1));
    if (address === 0) throw new Error(`out of memory: ${Math.ceil(bytes / 1e6)} MB more are not to be had`);
    return address;
  }

  /**
   * Call `use` with the address of a copy of `values`.
   * @template T
   * @param {ArrayBufferView} values
   * @param {(address: number) => T} use
   */
  withCopy(values, use) {
    const address = this.allocate(values.byteLength);
    try {
      new Uint8Array(this.memory.buffer).set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), address);
      return use(address);
    } finally {
      this.exports.free(address);
    }
  }

  /**
   * Call `use` with the address of `bytes` zeros.
   * @template T
   * @param {number} bytes
   * @param {(address: number) => T} use
   */
  withSpace(bytes, use) {
    return this.withCopy(new Uint8Array(bytes), use);
  }

  /** Throws what the library says unless a status is 0. @param {number} status */
  must(status) {
    if (status === OUT_OF_MEMORY) throw new Error('out of memory');
    if (status !== 0) throw new Error(this.text(this.exports.edgekit_last_error()));
  }

  /** The text at an address. @param {number} address */
  text(address) {
    const memory = new Uint8Array(this.memory.buffer);
    return new TextDecoder().decode(memory.slice(address, memory.indexOf(0, address)));
  }

  /** Floats at an address, copied out. @param {number} address @param {number} count */
  floats(address, count) {
    return new Float32Array(this.memory.buffer, address, count).slice();
  }

  /** @param {number} address */
  word(address) {
    return new DataView(this.memory.buffer).getInt32(address, true);
  }

  /**
   * The few functions of WASI that the C library asks for: an environment, a clock, and an end.
   * @param {WebAssembly.Module} module
   * @param {string[]} environment
   */
  #system(module, environment) {
    const texts = environment.map((each) => new TextEncoder().encode(`${each}\0`));
    const view = () => new DataView(this.memory.buffer);
    /** @type {Record<string, (...words: any[]) => number>} */
    const known = {
      environ_sizes_get: (count, bytes) => {
        view().setUint32(count, texts.length, true);
        view().setUint32(bytes, texts.reduce((sum, text) => sum + text.length, 0), true);
        return 0;
      },
      environ_get: (pointers, to) => {
        for (const text of texts) {
          view().setUint32(pointers, to, true);
          new Uint8Array(this.memory.buffer).set(text, to);
          pointers += 4;
          to += text.length;
        }
        return 0;
      },
      clock_time_get: (_id, _precision, to) => {
        view().setBigUint64(to, BigInt(Math.round(performance.now() * 1e6)), true);
        return 0;
      },
      proc_exit: (code) => {
        throw new Error(`the library ended with code ${code}`);
      },
    };
    /** @type {Record<string, any>} */
    const imports = {};
    for (const { module: from, name } of WebAssembly.Module.imports(module)) {
      (imports[from] ??= {})[name] = known[name] ?? (() => ENOSYS);
    }
    return imports;
  }
}
