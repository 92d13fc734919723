// Features of images in Node with transformers.js and this bundle's files only:  node embed.mjs IMAGE...
import './quiet.mjs';
import { fileURLToPath } from 'node:url';
import { env, pipeline } from '@huggingface/transformers';

env.allowRemoteModels = false;
const bundle = process.env.EDGEKIT_BUNDLE ?? fileURLToPath(new URL('../..', import.meta.url));
const extract = await pipeline('image-feature-extraction', bundle, { dtype: 'q8' }); // or 'fp32', 'fp16'

for (const image of process.argv.slice(2)) {
  const features = await extract(image, { pool: true }); // pooler_output (1, width)
  console.log(image, features.dims, features.data.slice(0, 4));
}
