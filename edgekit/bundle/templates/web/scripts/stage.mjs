// Puts what the page needs of a bundle into public/bundle: its JSON files, the ONNX models, the golden files.
//   EDGEKIT_BUNDLE=DIR npm run stage      (default: the folder above this one)
import { copyFile, link, mkdir, readdir, rm, stat } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(dirname(fileURLToPath(import.meta.url)));
const bundle = resolve(process.env.EDGEKIT_BUNDLE ?? dirname(here));
const target = join(here, 'public', 'bundle');

const inFolder = async (folder, suffix) =>
  (await readdir(join(bundle, folder)).catch(() => [])).filter((name) => name.endsWith(suffix)).map((name) => join(folder, name));

const files = [
  'manifest.json',
  'preprocessor_config.json',
  ...(await inFolder('onnx', '.onnx')).filter((name) => !name.includes('_fused')), // those need a native op library
  ...(await inFolder('golden', '.safetensors')),
];

await rm(target, { recursive: true, force: true });
for (const file of files) {
  const [from, to] = [join(bundle, file), join(target, file)];
  if (!(await stat(from).catch(() => null))) {
    console.error(`${from} does not exist: ${bundle} is no bundle.\nMake one: edgekit bundle OUT --to DIR`);
    process.exit(1);
  }
  await mkdir(dirname(to), { recursive: true });
  await link(from, to).catch(() => copyFile(from, to)); // another disk, or one without hard links
}
console.log(`${files.length} files of ${bundle}`);
