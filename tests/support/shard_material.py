"""Artifacts of a tiny model and folders of small pictures, for the tests of shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from edgekit.artifact import Artifact, Preprocess
from edgekit.backends.onnx.backend import OnnxBackend
from edgekit.models.vit import VisionTransformer
from edgekit.precision import Precision
from tests.support.plans import export_source

SIDE = 28


def artifacts(model: VisionTransformer, folder: Path) -> dict[Precision, Artifact]:
    """The model in FP32 and FP16."""
    source = export_source(model.bake(SIDE, SIDE), Preprocess.for_size(SIDE, SIDE), None)
    kinds: dict[Precision, str] = {"fp32": "model.onnx", "fp16": "model_fp16.onnx"}
    return {kind: OnnxBackend().export(source, kind, "standard", folder / file) for kind, file in kinds.items()}


def photos(root: Path, count: int) -> Path:
    """Pictures in two classes, all different."""
    for i in range(count):
        path = root / ("cats" if i % 2 else "dogs") / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (4, 5, 3), np.uint8)
        Image.fromarray(pixels).resize((50, 40), Image.Resampling.BICUBIC).save(path)
    return root


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
