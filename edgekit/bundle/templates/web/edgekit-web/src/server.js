// @ts-check
// Requests to an engine: what a worker answers, and what runs in the calling thread where there is none.

import { Engine } from './engine.js';

/** @import { Progress } from '../index.d.ts' */
/** @import { Request } from './protocol.d.ts' */

export class Server {
  /** @type {Engine | undefined} */
  #engine;

  /**
   * @param {Request} request
   * @param {Progress} [onProgress]
   * @param {AbortSignal} [signal]
   * @returns {Promise<any>}
   */
  async answer(request, onProgress, signal) {
    if (request.kind === 'open') {
      const { engine, ...opened } = await Engine.open(request.source, request.options, onProgress, signal);
      this.#engine = engine;
      return opened;
    }
    const engine = this.#engine;
    if (!engine) throw new Error('the model is closed');
    switch (request.kind) {
      case 'embed': return engine.embed(request.picture, request.size);
      case 'run': return engine.run(request.values, request.size);
      case 'crop': return engine.crop(request.picture, request.size);
      case 'check': return engine.check();
    }
  }

  close() {
    this.#engine?.close();
    this.#engine = undefined;
  }
}
