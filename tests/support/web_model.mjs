// Runs a model with the package @edgekit/web in Node: a JSON question per line comes in, a JSON answer per line goes out.
//   node web_model.mjs PACKAGE MODEL [ISA]
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const [folder, path, isa] = process.argv.slice(2);
const { load } = await import(pathToFileURL(join(folder, 'src', 'index.js')).href);
const answer = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
const model = await load(await readFile(path), { isa }).catch((error) => {
  answer({ error: error.message });
  process.exit(0);
});
answer({ isa: model.isa, isas: model.isas, description: model.description, bytes: model.bytes });

const bytesOf = (text) => new Uint8Array(Buffer.from(text, 'base64'));
const textOf = ({ buffer, byteOffset, byteLength }) => Buffer.from(buffer, byteOffset, byteLength).toString('base64');
const packed = ({ shape, data }) => ({ shape, data: textOf(data) });

async function reply({ kind, picture, values, size }) {
  if (picture) picture.data = bytesOf(picture.data);
  if (kind === 'check') return { cosine: await model.check() };
  if (kind === 'crop') {
    const { width, height, data } = await model.crop(picture, { size });
    return { width, height, data: textOf(data) };
  }
  const features = await (kind === 'embed' ? model.embed(picture, { size }) : model.run(new Float32Array(bytesOf(values).buffer), { size }));
  const heads = Object.fromEntries(Object.entries(features.heads).map(([name, tensor]) => [name, packed(tensor)]));
  return { tokens: packed(features.tokens), pooled: textOf(features.pooled), heads, grid: features.grid };
}

for await (const line of createInterface({ input: process.stdin })) {
  answer(await reply(JSON.parse(line)).catch((error) => ({ error: error.message })));
}
