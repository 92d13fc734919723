// @ts-check
// The WebAssembly library of libedgekit: which of its files this engine takes, instantiation, memory, errors.

/** The file of each instruction set. @type {Record<string, URL>} */
const FILES = {
  wasm_unsigned: new URL('../wasm/edgekit-unsigned.wasm', import.meta.url),
  wasm_signed: new URL('../wasm/edgekit-signed.wasm', import.meta.url),
  wasm_chained: new URL('../wasm/edgekit-chained.wasm', import.meta.url),
  base: new URL('../wasm/edgekit-base.wasm', import.meta.url),
};

// Modules of one function each. The first is lane 0 of i32x4.relaxed_dot_i8x16_i7x16_add_s(127, -1, 0), whose second operand
// engines may read as -1 or as 255, and whose sums of two products may saturate; the second is i8x16.splat(0).
const DOT = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 127, 3, 2, 1, 0, 7, 5, 1, 1, 102, 0, 0, 10, 23, 1, 21, 0,
  65, 255, 0, 253, 15, 65, 127, 253, 15, 65, 0, 253, 15, 253, 147, 2, 253, 27, 0, 11];
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11];

/** What the dot product tells: @type {Record<number, string[]>} */
const KINDS = {
  [4 * 127 * 255]: ['wasm_unsigned', 'wasm_chained'],
  [4 * 127 * -1]: ['wasm_signed'],
  [2 * 32767]: ['wasm_chained'],
};

/**
 * Instruction sets that this engine seems to compute exactly, best first. The library itself looks closely, and ends where it
 * is not so; whoever starts it then takes the next.
 */
export function instructionSets() {
  if (!WebAssembly.validate(Uint8Array.from(SIMD))) throw new Error('this browser has no WebAssembly SIMD, which edgekit needs');
  if (!WebAssembly.validate(Uint8Array.from(DOT))) return ['base'];
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(Uint8Array.from(DOT)));
  return [...(KINDS[/** @type {() => number} */ (exports.f)()] ?? []), 'base'];
}

/** The library's file for an instruction set. @param {string} isa */
export function libraryUrl(isa) {
  if (!(isa in FILES)) throw new Error(`there is no instruction set ${isa}; there are ${Object.keys(FILES).join(', ')}`);
  return FILES[isa].href;
}

const OUT_OF_MEMORY = 2; // edgekit_status
const ENOSYS = 52; // of WASI

/** An instance: its C functions as `exports`, and what it takes to call them. */
export class Library {
  /** @type {Record<string, any>} */
  exports = {};
  /** @type {WebAssembly.Memory} */
  memory = /** @type {any} */ (null);
  isBroken = false; // a trap leaves the memory in no known state

  /** Throws where this engine does not compute the file's instruction set exactly. @param {Uint8Array} bytes of the file */
  static async start(bytes) {
    const module = await WebAssembly.compile(/** @type {BufferSource} */ (bytes));
    const library = new Library();
    const { exports } = await WebAssembly.instantiate(module, library.#system(module));
    library.exports = exports;
    library.memory = /** @type {WebAssembly.Memory} */ (exports.memory);
    library.exports._initialize();
    library.exports.edgekit_isa(); // where the library looks
    return library;
  }

  get isa() {
    return this.text(this.exports.edgekit_isa());
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
    } catch (error) {
      this.isBroken ||= error instanceof WebAssembly.RuntimeError;
      throw error;
    } finally {
      if (!this.isBroken) this.exports.free(address);
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

  /** Makes a call that returns an edgekit_status, and throws what the library says unless it is 0. @param {() => number} call */
  run(call) {
    if (this.isBroken) throw new Error('the model broke in an earlier call: load it again');
    try {
      const status = call();
      if (status === OUT_OF_MEMORY) throw new Error('out of memory');
      if (status !== 0) throw new Error(this.text(this.exports.edgekit_last_error()));
    } catch (error) {
      if (!(error instanceof WebAssembly.RuntimeError)) throw error;
      this.isBroken = true;
      throw new Error(`out of memory, or a fault of the library (${error.message}): load the model again`);
    }
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

  /** The few functions of WASI that the C library asks for: an empty environment, and an end. @param {WebAssembly.Module} module */
  #system(module) {
    /** @type {Record<string, (...words: any[]) => number>} */
    const known = {
      environ_sizes_get: (count, bytes) => {
        new DataView(this.memory.buffer).setUint32(count, 0, true);
        new DataView(this.memory.buffer).setUint32(bytes, 0, true);
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
