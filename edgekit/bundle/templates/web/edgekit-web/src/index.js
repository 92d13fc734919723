// @ts-check
// load(): a model in a worker of its own, or in the calling thread.

import { toPicture } from './picture.js';
import { Server } from './server.js';

/** @import { CallOptions, Image, LoadOptions, Model, Progress } from '../index.d.ts' */
/** @import { FromWorker, Opened, Request } from './protocol.d.ts' */

export { toPicture };

/** @type {(source: string | URL | ArrayBuffer | Uint8Array, options?: LoadOptions) => Promise<Model>} */
export async function load(source, { onProgress, signal, cache = 'edgekit', worker = typeof Worker === 'function', isa } = {}) {
  signal?.throwIfAborted();
  const place = worker ? new WorkerPlace() : new LocalPlace();
  try {
    const request = { kind: /** @type {const} */ ('open'), source: absolute(source), options: { cache, isa } };
    return new LoadedModel(place, await place.ask(request, signal, onProgress));
  } catch (error) {
    place.close();
    throw error;
  }
}

/** A URL as the page means it: in a worker it would be relative to the worker. @param {string | URL | ArrayBuffer | Uint8Array} source */
function absolute(source) {
  if (source instanceof ArrayBuffer) return new Uint8Array(source);
  if (source instanceof Uint8Array) return source;
  return new URL(source, globalThis.document?.baseURI ?? globalThis.location?.href).href;
}

/** @implements {Model} */
class LoadedModel {
  #place;

  /**
   * @param {WorkerPlace | LocalPlace} place
   * @param {Opened} opened
   */
  constructor(place, { description, bytes, isa, isas }) {
    this.#place = place;
    this.description = description;
    this.bytes = bytes;
    this.isa = isa;
    this.isas = isas;
  }

  /** @param {Image} image @param {CallOptions} [options] */
  async embed(image, { signal, size } = {}) {
    signal?.throwIfAborted();
    return this.#place.ask({ kind: 'embed', picture: toPicture(image), size }, signal);
  }

  /** @param {Float32Array} values @param {CallOptions} [options] */
  async run(values, { signal, size } = {}) {
    return this.#place.ask({ kind: 'run', values, size }, signal);
  }

  /** @param {Image} image @param {CallOptions} [options] */
  async crop(image, { signal, size } = {}) {
    return this.#place.ask({ kind: 'crop', picture: toPicture(image), size }, signal);
  }

  async check() {
    return this.#place.ask({ kind: 'check' });
  }

  close() {
    this.#place.close();
  }
}

/** The calling thread. */
class LocalPlace {
  #server = new Server();

  /**
   * @param {Request} request
   * @param {AbortSignal} [signal]
   * @param {Progress} [onProgress]
   */
  async ask(request, signal, onProgress) {
    signal?.throwIfAborted();
    return this.#server.answer(request, onProgress, signal);
  }

  close() {
    this.#server.close();
  }
}

/**
 * A question to the worker.
 * @typedef {{ id: number, request: Request, resolve: (value: any) => void, reject: (reason: unknown) => void, onProgress: Progress | undefined }} Question
 */

/** A worker; it gets a question when the one before is answered, so that those that wait can still be taken back. */
class WorkerPlace {
  #worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module' });
  /** @type {Question[]} */
  #waiting = [];
  /** @type {Question | undefined} */
  #asked;
  #last = 0;
  /** @type {Error | undefined} */
  #ended;

  constructor() {
    this.#worker.onmessage = (/** @type {MessageEvent<FromWorker>} */ { data }) => {
      const question = /** @type {Question} */ (this.#asked);
      if ('progress' in data) return question.onProgress?.(...data.progress);
      this.#asked = undefined;
      if ('error' in data) question.reject(new Error(data.error));
      else question.resolve(data.value);
      this.#next();
    };
    this.#worker.onerror = (event) => this.#end(new Error(event.message || 'the worker of edgekit could not be started'));
  }

  /**
   * @param {Request} request
   * @param {AbortSignal} [signal]
   * @param {Progress} [onProgress]
   * @returns {Promise<any>}
   */
  async ask(request, signal, onProgress) {
    signal?.throwIfAborted();
    if (this.#ended) throw this.#ended;
    const id = ++this.#last;
    /** @type {(() => void) | undefined} */
    let abort;
    try {
      return await new Promise((resolve, reject) => {
        abort = () => {
          this.#waiting = this.#waiting.filter((question) => question.id !== id);
          if (this.#asked?.id === id) this.#worker.postMessage({ id, abort: true }); // its answer comes, and finds nobody
          reject(signal?.reason);
        };
        signal?.addEventListener('abort', abort);
        this.#waiting.push({ id, request, resolve, reject, onProgress });
        this.#next();
      });
    } finally {
      if (abort) signal?.removeEventListener('abort', abort);
    }
  }

  close() {
    this.#end(new Error('the model is closed'));
  }

  #next() {
    if (this.#asked) return;
    this.#asked = this.#waiting.shift();
    if (this.#asked) this.#worker.postMessage({ id: this.#asked.id, request: this.#asked.request });
  }

  /** @param {Error} error */
  #end(error) {
    this.#worker.terminate();
    this.#ended = error;
    for (const { reject } of [...(this.#asked ? [this.#asked] : []), ...this.#waiting]) reject(error);
    this.#asked = undefined;
    this.#waiting = [];
  }
}
