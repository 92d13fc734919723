// @ts-check
// The worker that holds one model.

import { Server } from './server.js';

/** @import { FromWorker, ToWorker } from './protocol.d.ts' */

const server = new Server();
/** @type {Map<number, AbortController>} */
const running = new Map();
const say = (/** @type {FromWorker} */ answer) => self.postMessage(answer);

self.onmessage = async (/** @type {MessageEvent<ToWorker>} */ { data }) => {
  const { id } = data;
  if ('abort' in data) {
    running.get(id)?.abort();
    return;
  }
  const controller = new AbortController();
  running.set(id, controller);
  try {
    const progress = (/** @type {number} */ loaded, /** @type {number} */ total) => say({ id, progress: [loaded, total] });
    say({ id, value: await server.answer(data.request, progress, controller.signal) });
  } catch (error) {
    say({ id, error: error instanceof Error ? error.message : String(error) });
  } finally {
    running.delete(id);
  }
};
