// Drives the built page in headless Chromium: golden check of every model, similarity of two images, a camera (Chromium's
// test picture), cancelling, no console errors; with --offline a second visit without a network.
//   npm run check -- [IMAGE IMAGE] [--json FILE] [--screenshots DIR] [--latency FILE] [--offline]
// Chromium is looked for at $CHROMIUM and the usual places. Exit code 1 when anything fails.
import { access, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { chromium } from 'playwright-core';
import { preview } from 'vite';

const { values: options, positionals: images } = parseArgs({
  allowPositionals: true,
  options: { json: { type: 'string' }, screenshots: { type: 'string' }, latency: { type: 'string' }, offline: { type: 'boolean' } },
});
const LONG = 900_000; // ms; a busy machine takes minutes where a quiet one takes seconds

const candidates = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/google-chrome', '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome'];
const found = await Promise.all(candidates.map((path) => path && access(path).then(() => path, () => undefined)));
const executablePath = found.find(Boolean);
if (!executablePath) {
  console.error('no Chromium here. Install one (apt-get install chromium) or name it: CHROMIUM=/path/to/chromium');
  process.exit(1);
}

const server = await preview({ logLevel: 'error', preview: { port: 0, host: '127.0.0.1' } });
const browser = await chromium.launch({
  executablePath,
  args: ['--no-sandbox', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream'],
});
const result = { isolated: false, firstLoad: {}, models: [], frames: '', cancelled: '', offline: null, similarity: null, saliency: false, crops: [], errors: [], messages: [] };
try {
  let heard = result.errors;
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  page.on('console', (message) => message.type() === 'error' && heard.push(message.text()));
  page.on('pageerror', (error) => heard.push(error.message));
  page.on('request', (request) => {
    const own = request.url().startsWith(server.resolvedUrls.local[0]) || /^(blob|data):/.test(request.url());
    if (!own) result.errors.push(`a request leaves this machine: ${request.url()}`);
  });
  page.on('requestfinished', async (request) => {
    const kind = /\.(wasm|edgekit|onnx)$/.exec(request.url())?.[1];
    if (kind && result.models.length === 0) result.firstLoad[kind] = (result.firstLoad[kind] ?? 0) + (await request.sizes()).responseBodySize;
  });
  await page.goto(server.resolvedUrls.local[0]);
  await settled(page);
  result.isolated = await page.evaluate(() => crossOriginIsolated);

  for (const label of await page.locator('#model option').allTextContents()) {
    await page.selectOption('#model', { label });
    await settled(page);
    await page.click('#check');
    await settled(page);
    const verdict = await page.locator('#verdict').textContent();
    const figures = await page.locator('#figures div').evaluateAll((boxes) =>
      Object.fromEntries(boxes.map((box) => [box.querySelector('dt').textContent, box.querySelector('dd').textContent])));
    result.models.push({ model: label, passed: verdict.startsWith('Passed'), verdict, figures });
  }

  for (let i = 0; i < images.length; i += 2) {
    await page.setInputFiles('#input-a', images[i]);
    await settled(page);
    await page.setInputFiles('#input-b', images[i + 1] ?? images[i]);
    await settled(page);
    result.similarity = Number(await page.locator('#similarity').textContent());
    result.crops.push(...(await page.locator('.photo').evaluateAll((canvases) => canvases.map((canvas) => {
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      return Array.from(data).filter((_, at) => at % 4 !== 3); // RGB
    }))));
  }

  result.saliency = await page.locator('.saliency').first().isVisible();

  await page.click('#camera');
  await page.waitForFunction(() => Number.parseInt(document.querySelector('#camera-status').textContent) >= 3, null, { timeout: LONG });
  await page.click('#cancel');
  await settled(page);
  result.frames = await page.locator('#camera-status').textContent();
  await page.click('#bench');
  await page.click('#cancel');
  await settled(page);
  result.cancelled = await page.locator('#bench-status').textContent();

  if (options.screenshots) await screenshots(page, options.screenshots);
  if (options.latency) {
    await page.click('#bench');
    await settled(page);
    const json = await page.evaluate(async () => (await fetch(document.querySelector('#download').href)).text());
    await writeFile(options.latency, json);
    if (options.screenshots) await screenshots(page, join(options.screenshots, 'latency'));
  }

  heard = []; // without a network, or fed nonsense, the page may say so in the console
  if (options.offline) {
    await page.context().setOffline(true);
    await page.reload();
    result.offline = (await message(page)) || (await page.locator('#status').textContent()); // only models of edgekit are kept
    await page.context().setOffline(false);
  }

  await page.setInputFiles('#input-a', { name: 'notes.txt', mimeType: 'text/plain', buffer: Buffer.from('no image') });
  result.messages.push(await message(page));
  await page.route('**/bundle/{edgekit,onnx}/**', (route) => route.fulfill({ status: 404 }));
  await page.locator('#placement').dispatchEvent('change'); // loads the model again
  result.messages.push(await message(page));
} finally {
  await browser.close();
  await server.close();
}

for (const { verdict, figures } of result.models) console.log(verdict, figures);
if (result.similarity !== null) console.log('similarity', result.similarity);
result.errors.forEach((error) => console.error('error:', error));
if (options.json) await writeFile(options.json, JSON.stringify(result));
const ok = result.isolated && result.models.length > 0 && result.models.every((each) => each.passed) && result.errors.length === 0;
process.exit(ok ? 0 : 1);

/** Wait until the page is idle and return the error that it shows, or nothing. */
async function message(page) {
  await page.waitForFunction(() => document.body.ariaBusy === 'false', null, { timeout: LONG });
  const error = page.locator('#error');
  return (await error.isVisible()) ? error.textContent() : '';
}

/** Wait until the page is idle; an error that it shows is thrown. */
async function settled(page) {
  const error = await message(page);
  if (error) throw new Error(`the page says: ${error}`);
}

async function screenshots(page, folder) {
  await mkdir(folder, { recursive: true });
  for (const colorScheme of ['light', 'dark']) {
    for (const [name, width, height] of [['phone', 390, 844], ['desktop', 1280, 900]]) {
      await page.emulateMedia({ colorScheme });
      await page.setViewportSize({ width, height });
      await page.screenshot({ path: join(folder, `${name}-${colorScheme}.png`), fullPage: true });
    }
  }
}
