// How the page is built and served: local WebAssembly only, and the two headers that allow threads.
import { defaultClientConditions, defineConfig } from 'vite';

// Without these a browser gives no SharedArrayBuffer, and ONNX Runtime runs on one thread.
const headers = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
};

export default defineConfig({
  base: './', // works below any path
  appType: 'mpa', // a missing model is a 404, not this page again
  resolve: { conditions: ['onnxruntime-web-use-extern-wasm', ...defaultClientConditions] },
  worker: { format: 'es' },
  assetsInclude: ['**/*.safetensors'],
  build: { target: 'es2022', assetsInlineLimit: 0, chunkSizeWarningLimit: 1000 },
  server: { headers },
  preview: { headers },
});
