// How the page is built and served: local WebAssembly only, the two headers that allow threads, and the list of files that
// public/offline.js keeps.
import { defaultClientConditions, defineConfig, type Plugin } from 'vite';

// Without these a browser gives no SharedArrayBuffer, and ONNX Runtime runs on one thread.
const headers = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
};

const offline: Plugin = {
  name: 'offline',
  generateBundle(_, bundle) {
    const files = Object.keys(bundle).filter((name) => /\.(js|css)$/.test(name) && !/ort[.-]/.test(name));
    this.emitFile({ type: 'asset', fileName: 'offline.json', source: JSON.stringify(files) });
  },
};

export default defineConfig({
  plugins: [offline],
  base: './', // works below any path
  appType: 'mpa', // a missing model is a 404, not this page again
  resolve: { conditions: ['onnxruntime-web-use-extern-wasm', ...defaultClientConditions] },
  worker: { format: 'es' },
  assetsInclude: ['**/*.safetensors'],
  build: { target: 'es2022', assetsInlineLimit: 0, chunkSizeWarningLimit: 1000 },
  server: { headers },
  preview: { headers },
});
