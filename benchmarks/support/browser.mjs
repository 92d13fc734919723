// Latency of a bundle's models in Node's WebAssembly, one thread: edgekit's library beside ONNX Runtime Web, in turns.
//   node browser.mjs BUNDLE ROUNDS ITERATIONS      prints JSON: a list of {artifact, runtime, times, cpu}, times per round in ms
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [bundle, rounds, iterations] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const web = join(bundle, 'web');
const { resolve } = createRequire(join(web, 'package.json'));
const { load } = await import(pathToFileURL(join(web, 'edgekit-web', 'src', 'index.js')).href);
const { default: ort } = await import(pathToFileURL(resolve('onnxruntime-web/wasm')).href); // its CommonJS build
ort.env.wasm.numThreads = 1;
ort.env.logLevel = 'error';
const { version } = JSON.parse(await readFile(join(web, 'node_modules', 'onnxruntime-web', 'package.json')));

const { artifacts } = JSON.parse(await readFile(join(bundle, 'manifest.json')));
const chosen = artifacts.filter(({ status, variant, preprocess }) => status === 'ok' && variant !== 'fused' && preprocess);
const size = chosen[0].preprocess.input_size;
const pixels = Float32Array.from({ length: 3 * size[0] * size[1] }, (_, i) => Math.sin(i / 7)); // no time depends on them

async function openAll() {
  const opened = [];
  for (const { name, format, path, preprocess } of chosen) {
    if (String(preprocess.input_size) !== String(size)) continue;
    const bytes = await readFile(join(bundle, path));
    if (format === 'edgekit') {
      const best = await load(bytes);
      opened.push({ artifact: name, runtime: `edgekit ${best.isa}`, run: () => best.run(pixels) });
      if (best.isa === 'base') continue;
      const base = await load(bytes, { isa: 'base' });
      opened.push({ artifact: name, runtime: 'edgekit base', run: () => base.run(pixels) });
    } else if (format === 'onnx') {
      const session = await ort.InferenceSession.create(bytes, { executionProviders: ['wasm'], logSeverityLevel: 3 });
      const input = new ort.Tensor('float32', pixels, [1, 3, ...size]);
      opened.push({ artifact: name, runtime: `onnxruntime-web ${version}`, run: () => session.run({ [session.inputNames[0]]: input }) });
    }
  }
  return opened;
}

const rows = (await openAll()).map((each) => ({ ...each, times: [], cpu: [] }));
for (const { run } of rows) for (let i = 0; i < 3; i++) await run();
for (let round = 0; round < rounds; round++) {
  const order = rows.map((row, i) => ({ row, key: Math.sin(1000 * round + i * i) })).sort((a, b) => a.key - b.key);
  for (const { row } of order) {
    await row.run(); // caches belong to the turn before
    const [times, cpu] = [[], []];
    for (let i = 0; i < iterations; i++) {
      const [begin, before] = [performance.now(), process.cpuUsage()];
      await row.run();
      const { user, system } = process.cpuUsage(before);
      times.push(performance.now() - begin);
      cpu.push((user + system) / 1000);
    }
    row.times.push(times);
    row.cpu.push(cpu);
  }
}
console.log(JSON.stringify(rows.map(({ artifact, runtime, times, cpu }) => ({ artifact, runtime, times, cpu }))));
process.exit(0);
