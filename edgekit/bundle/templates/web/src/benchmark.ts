// Latency of the bundle's models in this browser: interleaved rounds, paired speedups, rows as in edgekit's runtimes.csv.

import type { Golden, Model } from './bundle';
import { openEngine, type Engine, type Placement } from './engine';
import { checkGolden } from './golden';
import { cpuName } from './host';
import { mean, quantile } from './vectors';

const ROUNDS = 10;
const ITERATIONS = 10; // per round, fewer when they would not fit into the budget
const BUDGET_MS = 6000; // per model and placement
const WARMUP = 3;
const GAP_MS = 100; // before each turn: threads of the engine before it fall asleep
const RESAMPLES = 2000;
const MAX_SPREAD = 1.3; // 90th percentile over median
const MAX_DRIFT = 1.25; // slowest over fastest round median

/** One row; the columns are among those of edgekit's benchmarks/results/matrix-*.csv and mean the same. */
export interface Row {
  cpu: string;
  image_size: number;
  artifact: string;
  threads: number;
  p50_ms: number;
  min_ms: number;
  speedup: number | '';
  speedup_low: number | '';
  speedup_high: number | '';
  sqnr_db: number | '';
  cls_cosine: number | '';
  size_mb: number;
  unstable: string;
  placement: string;
}

/** All models on one placement, in one interleaved run. Speedups are against the FP32 model in ONNX Runtime. */
export async function benchmark(
  models: Model[], placement: Placement, golden: Golden, notify: (text: string) => void, signal: AbortSignal,
): Promise<Row[]> {
  const engines: { model: Model; engine: Engine }[] = [];
  try {
    const rows: Row[] = [];
    const iterations: number[] = [];
    for (const model of models) {
      notify(`${describe(placement)}: loading ${model.name}`);
      const engine = await openEngine(model, placement, undefined, signal);
      engines.push({ model, engine });
      const check = await checkGolden(engine, model, golden, signal);
      const usual = quantile(await engine.time(golden.pixels[0], WARMUP, signal), 0.5);
      iterations.push(Math.max(1, Math.min(ITERATIONS, Math.floor(BUDGET_MS / (ROUNDS * usual)))));
      rows.push(row(model, placement, engine.bytes, rounded(check.sqnrDb, 2), rounded(check.meanPoolerCosine, 6)));
    }
    const times = await interleave(engines.map(({ engine }) => engine), iterations, golden.pixels[0], signal, (round) =>
      notify(`${describe(placement)}: round ${round} of ${ROUNDS}`));
    const reference = times[models.findIndex((model) => model.precision === 'fp32' && model.format === 'onnx')];
    rows.forEach((each, i) => Object.assign(each, summary(times[i], reference)));
    return rows;
  } finally {
    engines.forEach(({ engine }) => engine.close());
  }
}

/** In words, for the column `placement`. */
export function describe({ provider, threads }: Placement): string {
  if (provider === 'webgpu') return 'WebGPU';
  return `WebAssembly SIMD, ${threads} thread${threads === 1 ? '' : 's'}`;
}

/** Times per engine and round; every round visits all in another order, so that a slow minute hits all alike. */
async function interleave(
  engines: Engine[], iterations: number[], pixels: Float32Array, signal: AbortSignal, notify: (round: number) => void,
): Promise<number[][][]> {
  const times: number[][][] = engines.map(() => []);
  const random = randoms(0);
  for (let round = 1; round <= ROUNDS; round++) {
    notify(round);
    const order = engines.map((_, i) => ({ i, key: random() })).sort((a, b) => a.key - b.key);
    for (const { i } of order) {
      await new Promise((resolve) => setTimeout(resolve, GAP_MS));
      await engines[i].time(pixels, 1, signal); // caches belong to the turn before
      times[i].push(await engines[i].time(pixels, iterations[i], signal));
    }
  }
  return times;
}

function summary(times: number[][], reference: number[][] | undefined): Partial<Row> {
  const flat = times.flat();
  const medians = times.map((turn) => quantile(turn, 0.5));
  const p50 = quantile(flat, 0.5);
  const steady = quantile(flat, 0.9) / p50 <= MAX_SPREAD && Math.max(...medians) / Math.min(...medians) <= MAX_DRIFT;
  const measured = { p50_ms: rounded(p50, 2), min_ms: rounded(Math.min(...flat), 2), unstable: steady ? '' : 'the device was busy' };
  if (!reference) return measured;
  const { value, low, high } = pairedSpeedup(reference, times);
  return { ...measured, speedup: rounded(value, 3), speedup_low: rounded(low, 3), speedup_high: rounded(high, 3) };
}

/** Ratio of the round medians, round by round: geometric mean with its 95 % bootstrap interval. */
export function pairedSpeedup(reference: number[][], own: number[][]): { value: number; low: number; high: number } {
  const logs = own.map((turn, i) => Math.log(quantile(reference[i], 0.5) / quantile(turn, 0.5)));
  const random = randoms(0);
  const means = Array.from({ length: RESAMPLES }, () => mean(logs.map(() => logs[Math.floor(random() * logs.length)])));
  return { value: Math.exp(mean(logs)), low: Math.exp(quantile(means, 0.025)), high: Math.exp(quantile(means, 0.975)) };
}

function row(model: Model, placement: Placement, bytes: number, sqnr: number, cosine: number): Row {
  return {
    cpu: cpuName(), image_size: Math.max(...model.preprocess.input_size), artifact: model.name, threads: placement.threads,
    p50_ms: 0, min_ms: 0, speedup: '', speedup_low: '', speedup_high: '',
    sqnr_db: sqnr, cls_cosine: cosine, size_mb: rounded(bytes / 1e6, 3), unstable: '', placement: describe(placement),
  };
}

const rounded = (value: number, digits: number): number => Number(value.toFixed(digits));

/** Uniform in 0..1 from a seed: mulberry32. */
function randoms(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
