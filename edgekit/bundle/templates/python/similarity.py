"""Similarity of two pictures: `python similarity.py a.jpg b.jpg`."""

import sys
from pathlib import Path

import numpy as np

import edgekit

model = edgekit.load(Path(__file__).resolve().parents[1])  # or one file, such as "../onnx/model_quantized.onnx"
print(model.reason)
a, b = (model(path)["pooler_output"][0] for path in sys.argv[1:3])  # two class tokens
print(f"cosine similarity {a @ b / np.linalg.norm(a) / np.linalg.norm(b):.4f}")
