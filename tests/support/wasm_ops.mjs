// Runs the fused ops of a WebAssembly library: a JSON question per line comes in, a JSON answer per line goes out.
//   node wasm_ops.mjs LIBRARY
import { readFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { Library } from '../../edgekit/bundle/templates/web/edgekit-web/src/library.js';

const [path] = process.argv.slice(2);
const answer = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
const library = await Library.start(await readFile(path)).catch((error) => {
  answer({ error: error.message });
  process.exit(0);
});
answer({ isa: library.isa });

/** Addresses of what a question needs in the library's memory; all is freed after it. */
let held = [];

function place(base64) {
  if (base64 === undefined || base64 === null) return 0;
  const bytes = Buffer.from(base64, 'base64');
  const address = space(bytes.length);
  new Uint8Array(library.memory.buffer).set(bytes, address);
  return address;
}

function space(bytes) {
  const address = library.allocate(bytes);
  held.push(address);
  return address;
}

const rope = ({ cos, sin, tokens } = {}) => {
  if (cos === undefined) return 0;
  const [first, second, at] = [place(cos), place(sin), space(16)];
  const view = new DataView(library.memory.buffer);
  view.setUint32(at, first, true);
  view.setUint32(at + 4, second, true);
  view.setBigInt64(at + 8, BigInt(tokens), true);
  return at;
};

/** edgekit_block_spec, on 32 bits. */
function spec({ width, hidden, heads, scale, epsilon, tier, attention, norms, linears, gain, activation }) {
  const [at, norm, parts, gains] = [space(128), norms.map(place), linears.map((each) => each.map(place)), place(gain)];
  const view = new DataView(library.memory.buffer, at);
  [width, hidden, heads].forEach((value, i) => view.setBigInt64(8 * i, BigInt(value), true));
  view.setFloat32(24, scale, true);
  view.setFloat32(28, epsilon, true);
  view.setInt32(32, tier, true);
  view.setInt32(36, attention, true);
  norm.forEach((pointer, i) => view.setUint32(40 + 4 * i, pointer, true));
  parts.flat().forEach((pointer, i) => view.setUint32(56 + 4 * i, pointer, true));
  view.setUint32(120, gains, true);
  view.setInt32(124, activation, true);
  return at;
}

function block(question) {
  const { exports } = library;
  const [made, x] = [space(4), place(question.x)];
  const address = spec(question.spec);
  library.run(() => exports.edgekit_block_create(address, made));
  const block = library.word(made);
  try {
    const tables = rope(question.rope);
    library.run(() => exports.edgekit_block_run(block, x, x, BigInt(question.batch), BigInt(question.tokens), 0, tables));
  } finally {
    exports.edgekit_block_destroy(block);
  }
  return library.floats(x, question.batch * question.tokens * question.spec.width);
}

function attention({ x, batch, tokens, width, heads, scale, mode, rope: tables }) {
  const [qkv, out] = [place(x), space(batch * tokens * width * 4)];
  const sizes = [batch, tokens, width, heads].map(BigInt);
  const turned = rope(tables);
  library.run(() => library.exports.edgekit_attention_run(qkv, out, ...sizes, scale, mode, 0, turned));
  return library.floats(out, batch * tokens * width);
}

for await (const line of createInterface({ input: process.stdin })) {
  const question = JSON.parse(line);
  try {
    const y = question.kind === 'block' ? block(question) : attention(question);
    answer({ y: Buffer.from(y.buffer).toString('base64') });
  } catch (error) {
    answer({ error: error.message });
  }
  held.forEach((address) => library.exports.free(address));
  held = [];
}
