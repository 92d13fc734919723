// Puts what the page needs of a bundle into public/bundle: its manifest, the models, the golden files.
//   EDGEKIT_BUNDLE=DIR npm run stage      (default: the folder above this one)
import { copyFile, link, mkdir, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(dirname(fileURLToPath(import.meta.url)));
const bundle = resolve(process.env.EDGEKIT_BUNDLE ?? dirname(here));
const target = join(here, 'public', 'bundle');

const inFolder = async (folder, pattern) => {
  const names = await readdir(join(bundle, folder)).catch(() => []);
  return names.filter((name) => pattern.test(name)).map((name) => join(folder, name));
};
const goldenOf = async (size) => [
  ...(await inFolder(join(size, 'golden'), /\.safetensors$/)),
  ...(await inFolder(join(size, 'golden', 'pictures'), /\.(png|jpg)$/)),
];

const sizes = ['.', ...(await inFolder('.', /^\d+x\d+$/))]; // further image sizes have golden files of their own
const onnx = (await inFolder('onnx', /\.onnx$/)).filter((name) => !name.includes('_fused')); // those need a native op library
const models = [...(await inFolder('edgekit', /\.edgekit$/)), ...onnx];
const files = ['manifest.json', ...models, ...(await Promise.all(sizes.map(goldenOf))).flat()];

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
// a page cannot list a folder
await writeFile(join(target, 'files.json'), JSON.stringify(files.map((file) => file.replaceAll('\\', '/'))));
console.log(`${files.length} files of ${bundle}`);
