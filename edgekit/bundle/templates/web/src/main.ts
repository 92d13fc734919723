// The page: loads the bundle's model, compares two images, watches the camera, checks itself, measures latency.

import './style.css';
import { benchmark, describe, type Row } from './benchmark';
import { readBundle, readGolden, sizeOf, type Bundle, type Golden, type Model } from './bundle';
import { live } from './camera';
import { openEngine, runsOn, type Engine, type Placement } from './engine';
import { checkGolden, checkPictures } from './golden';
import { hasSimd, hasThreads, hasWebGpu, placements } from './host';
import { pcaColours } from './pca';
import { crop, toPicture, toPixelValues } from './preprocess';
import { Slot } from './slot';
import { element, latencyRows } from './table';
import { cosine, rows } from './vectors';

const by = <T extends HTMLElement>(id: string): T => document.getElementById(id) as T;
const [modelChoice, placementChoice] = [by<HTMLSelectElement>('model'), by<HTMLSelectElement>('placement')];
const cancel = by<HTMLButtonElement>('cancel');
const buttons = ['example', 'camera', 'check', 'bench'].map((id) => by<HTMLButtonElement>(id));
const slots = ['A', 'B'].map((letter) => new Slot(by('slots'), letter, (decoding) => {
  void attempt(async (signal) => {
    await decoding();
    await compare(signal);
  });
}));

let queue = Promise.resolve();
let waiting = 0; // actions that are not done
let bundle: Bundle | undefined;
let places: Placement[];
let engine: Engine | undefined;
let examples = 0;

const model = (): Model => bundle!.models[modelChoice.selectedIndex];
const placement = (): Placement => placesOf(model())[placementChoice.selectedIndex];
const placesOf = (each: Model): Placement[] => places.filter((place) => runsOn(each, place));
const golden = (): Promise<Golden> => readGolden(bundle!, model());
const megabytes = (bytes: number) => (bytes / 1e6).toFixed(1);
const status = (text: string) => (by('status').textContent = text);

function fail(error: unknown): void {
  by('error').textContent = error instanceof Error ? error.message : String(error);
  by('error').hidden = false;
}

/** Run an action when those before it are done, with the controls locked; what goes wrong is shown on the page. */
function attempt(action: (signal: AbortSignal) => Promise<void>): Promise<void> {
  lock(++waiting > 0);
  const run = async () => {
    by('error').hidden = true;
    const controller = new AbortController();
    cancel.onclick = () => controller.abort(new Error('cancelled'));
    await action(controller.signal).catch((error) => (controller.signal.aborted ? status('Cancelled.') : fail(error)));
    lock(--waiting > 0);
  };
  return (queue = queue.then(run));
}

function lock(busy: boolean): void {
  document.body.ariaBusy = String(busy);
  [modelChoice, placementChoice, ...buttons].forEach((control) => (control.disabled = busy || bundle === undefined));
  cancel.disabled = !busy;
}

async function start(signal: AbortSignal): Promise<void> {
  const { name, models } = (bundle = await readBundle());
  document.title = by('title').textContent = `${name} in the browser`;
  places = await placements();
  modelChoice.append(...models.map((each) => new Option(`${each.name}, ${sizeOf(each)}, ${Math.round(each.size_mb)} MB`)));
  const usual = models.filter((each) => each.precision === 'w8a8');
  modelChoice.selectedIndex = Math.max(0, models.indexOf(usual.find((each) => each.format === 'edgekit') ?? usual[0]));
  listPlaces();
  await open(signal);
  await example(signal);
}

/** The ways to run the chosen model. */
function listPlaces(): void {
  placementChoice.replaceChildren(...placesOf(model()).map((place) => new Option(describe(place))));
}

async function open(signal: AbortSignal): Promise<void> {
  engine?.close();
  engine = undefined;
  by('verdict').hidden = by('figures').hidden = true;
  const bar = by<HTMLProgressElement>('progress');
  bar.hidden = false;
  try {
    status(`Loading ${model().name} …`);
    const whole = model().size_mb * 1e6; // servers that compress on the way do not say
    engine = await openEngine(model(), placement(), (loaded) => {
      bar.value = loaded / whole;
      status(`Loading ${model().name}: ${megabytes(loaded)} of ${megabytes(whole)} MB`);
    }, signal);
    status('The model is loaded.');
  } catch (error) {
    status('No model is loaded.');
    throw error;
  } finally {
    bar.hidden = true;
  }
  slots.forEach((slot) => (slot.outputs = undefined));
}

function loaded(): Engine {
  if (!engine) throw new Error('no model is loaded');
  return engine;
}

/** Features of both images, what they share, and their maps. */
async function compare(signal: AbortSignal): Promise<void> {
  const running = loaded();
  const transform = model().preprocess;
  for (const slot of slots) {
    if (!slot.source || slot.outputs) continue;
    slot.drawCrop(crop(slot.source, transform));
    const pixels = toPixelValues(slot.crop!, transform);
    const begin = performance.now();
    slot.outputs = await running.run(pixels, signal);
    status(`Ready: the last image took ${Math.round(performance.now() - begin)} ms.`);
  }
  const done = slots.filter((slot) => slot.outputs);
  const columns = transform.input_size[1] / bundle!.patch;
  const patches = (transform.input_size[0] / bundle!.patch) * columns;
  const tokens = done.map(({ outputs }) => rows(outputs!.last_hidden_state, outputs!.pooler_output.length).slice(-patches));
  if (done.length > 0) pcaColours(tokens).forEach((colours, i) => done[i].drawPatches(colours, columns));
  done.forEach((slot) => slot.drawSaliency(slot.outputs!.saliency));
  if (done.length < 2) return;
  const value = cosine(done[0].outputs!.pooler_output, done[1].outputs!.pooler_output);
  by('similarity').textContent = value.toFixed(3);
  by<HTMLMeterElement>('meter').value = Math.max(0, value);
}

/** The next two of the golden images, so that there is something to see at once. */
async function example(signal: AbortSignal): Promise<void> {
  const { pixels } = await golden();
  slots.forEach((slot) => {
    const i = examples++ % pixels.length;
    slot.show(toPicture(pixels[i], model().preprocess), `example ${i + 1}`);
  });
  await compare(signal);
}

async function watch(signal: AbortSignal): Promise<void> {
  const notify = (text: string) => (by('camera-status').textContent = text);
  by('frames').hidden = false;
  status('The camera is on.');
  const canvases = { photo: by<HTMLCanvasElement>('frame'), patches: by<HTMLCanvasElement>('frame-patches') };
  await live(loaded(), model().preprocess, bundle!.patch, { ...canvases, notify }, signal);
  status('The camera is off.');
}

async function check(signal: AbortSignal): Promise<void> {
  const files = await golden();
  const found = await checkGolden(loaded(), model(), files, signal);
  const seen = await checkPictures(loaded(), model(), files, signal);
  const passed = found.passed && seen.passed;
  by('verdict').textContent =
    `${passed ? 'Passed' : 'Failed'}: ${model().name}, ${describe(placement())}. The least cosine allowed is ${found.least}.`;
  by('verdict').classList.toggle('failed', !passed);
  const figures = {
    [`cosine of the class token, ${found.images} inputs`]: found.poolerCosine.toFixed(6),
    [`cosine of the class token, ${seen.pictures} pictures`]: seen.cosine.toFixed(6),
    'cosine of all tokens': found.tokenCosine.toFixed(6),
    'crops of the pictures, levels off': seen.difference.toFixed(2),
    'SQNR of all tokens': `${found.sqnrDb.toFixed(1)} dB`,
    'largest difference': found.largestDifference.toPrecision(3),
  };
  by('figures').replaceChildren(...Object.entries(figures).map(([name, value]) => {
    const box = document.createElement('div');
    box.append(element('dt', name), element('dd', value));
    return box;
  }));
  by('verdict').hidden = by('figures').hidden = false;
}

async function measure(signal: AbortSignal): Promise<void> {
  const line = by('bench-status');
  line.hidden = false;
  const found: Row[] = [];
  by('rows').replaceChildren();
  const models = bundle!.models.filter((each) => sizeOf(each) === sizeOf(model()));
  for (const place of places) {
    try {
      const here = models.filter((each) => runsOn(each, place));
      found.push(...(await benchmark(here, place, await golden(), (text) => (line.textContent = text), signal)));
    } catch (error) {
      if (signal.aborted) line.textContent = 'Cancelled.';
      signal.throwIfAborted();
      fail(new Error(`${describe(place)}: ${error instanceof Error ? error.message : error}`)); // the others go on
    }
    by('rows').replaceChildren(...places.flatMap((each) => latencyRows(describe(each), found)));
    document.querySelector<HTMLElement>('.scroll')!.hidden = found.length === 0;
  }
  line.textContent = `${found.length} rows. ${found.every((row) => row.unstable === '') ? 'The device was quiet.' : 'The device was busy: compare within the table only.'}`;
  const link = by<HTMLAnchorElement>('download');
  URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(new Blob([`${JSON.stringify(found, null, 2)}\n`], { type: 'application/json' }));
  link.hidden = found.length === 0;
}

async function listHost(): Promise<void> {
  const threads = hasThreads() ? `threads: ${navigator.hardwareConcurrency} cores` : 'threads: no (the server sends no COOP and COEP headers)';
  const lines = [threads, `SIMD: ${hasSimd() ? 'yes' : 'no'}`, `WebGPU: ${(await hasWebGpu()) ? 'yes' : 'no'}`];
  by('host').replaceChildren(...lines.map((text) => element('li', text)));
}

const reopen = () => attempt(async (signal) => {
  await open(signal);
  await compare(signal);
});
placementChoice.onchange = reopen;
modelChoice.onchange = () => (listPlaces(), reopen());
by('example').onclick = () => attempt(example);
by('camera').onclick = () => attempt(watch);
by('check').onclick = () => attempt(check);
by('bench').onclick = () => attempt(measure);
if (import.meta.env.PROD && 'serviceWorker' in navigator) void navigator.serviceWorker.register('offline.js');
void listHost();
void attempt(start);
