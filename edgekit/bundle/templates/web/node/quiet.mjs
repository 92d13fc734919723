// Imported before onnxruntime-node is loaded: it reports its use to Microsoft otherwise, from 1.29 on.
process.env.ORT_DISABLE_TELEMETRY ??= '1';
