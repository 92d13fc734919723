// The service worker that lets the page work without a network, once it has been opened with one.
// Files with a digest in their name never change; offline.json, which the build writes, lists them. Of all others the server is
// asked first. Models are not kept here: the package @edgekit/web keeps its own, and those of ONNX Runtime, like its
// WebAssembly, are there for comparison only.
const CACHE = 'page';
const isModel = (path) => /\.(edgekit|onnx)$/.test(path);
const hasDigest = (path) => path.includes('/assets/');

self.addEventListener('install', (event) => {
  self.skipWaiting();
  event.waitUntil(keepAll());
});
self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()));
self.addEventListener('fetch', (event) => {
  const { origin, pathname } = new URL(event.request.url);
  if (event.request.method !== 'GET' || origin !== self.location.origin || isModel(pathname)) return;
  event.respondWith(answer(event.request, hasDigest(pathname)));
});

/** What the page has loaded before this was there; files of an earlier build go. */
async function keepAll() {
  const files = await (await fetch('offline.json')).json();
  const cache = await caches.open(CACHE);
  await cache.addAll(['./', 'bundle/manifest.json', 'bundle/files.json', ...files]);
  const current = new Set(files.map((file) => new URL(file, self.location.href).href));
  const kept = (await cache.keys()).map(({ url }) => url);
  await Promise.all(kept.filter((url) => hasDigest(url) && !current.has(url)).map((url) => cache.delete(url)));
}

async function answer(request, unchanging) {
  const cache = await caches.open(CACHE);
  const kept = await cache.match(request, { ignoreVary: true }); // module scripts are asked for with another Origin
  if (kept && unchanging) return kept;
  try {
    const response = await fetch(request);
    if (response.ok) await cache.put(request, response.clone());
    return response;
  } catch (error) {
    if (kept) return kept;
    throw error;
  }
}
