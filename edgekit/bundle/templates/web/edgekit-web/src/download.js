// @ts-check
// Files from the network, with progress, an end on demand, and a kept copy for when there is no network.

/** @import { Progress } from '../index.d.ts' */

const TAG = 'x-edgekit-tag'; // what the server called the copy: its ETag, else its date

/**
 * The bytes behind a URL. The server is asked first; what it has not changed since is taken from the cache, and so is all
 * when it cannot be reached.
 * @param {string} url
 * @param {{ cache: string | null, signal: AbortSignal | undefined, onProgress: Progress | undefined }} options
 * @returns {Promise<Uint8Array>}
 */
export async function download(url, { cache, signal, onProgress }) {
  if (url.startsWith('file:')) return readFile(url);
  const store = cache !== null && globalThis.caches ? await caches.open(cache) : undefined;
  const kept = await store?.match(url);
  const response = await fetch(url, { signal: signal ?? null, cache: 'no-cache' }).catch(() => {
    signal?.throwIfAborted();
    if (kept) return kept;
    throw new Error(`${url} cannot be reached, and no copy of it is kept`);
  });
  if (!response.ok) throw new Error(`model not found: the server answers ${response.status} for ${url}`);
  const tag = response.headers.get('ETag') ?? response.headers.get('Last-Modified');
  const isKept = kept && (response === kept || (tag !== null && kept.headers.get(TAG) === tag));
  if (isKept && response !== kept) await response.body?.cancel();
  const bytes = await read(isKept ? kept : response, onProgress);
  if (store && !isKept && tag !== null) {
    const headers = { [TAG]: tag, 'Content-Length': String(bytes.length) };
    await store.put(url, new Response(/** @type {BodyInit} */ (bytes), { headers }))
      .catch((error) => console.warn(`edgekit keeps no copy of ${url}: ${error}`)); // storage is full, or forbidden
  }
  return bytes;
}

/**
 * @param {Response} response
 * @param {Progress} [onProgress]
 */
async function read(response, onProgress) {
  const isPacked = response.headers.has('Content-Encoding'); // its length is then not that of the file
  const total = isPacked ? 0 : Number(response.headers.get('Content-Length')) || 0;
  /** @type {Uint8Array[]} */
  const parts = [];
  let loaded = 0;
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    loaded += value.length;
    onProgress?.(loaded, total);
  }
  const whole = new Uint8Array(loaded);
  let end = 0;
  for (const part of parts) {
    whole.set(part, end);
    end += part.length;
  }
  return whole;
}

/** In Node. @param {string} url */
async function readFile(url) {
  const name = 'node:fs/promises'; // a name that bundlers for browsers do not follow
  const files = await import(/* @vite-ignore */ name);
  return new Uint8Array(await files.readFile(new URL(url)));
}
