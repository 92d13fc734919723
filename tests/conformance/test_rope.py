"""Rotary positions: files of tiny DINOv3 models compute what torch and the plan's simulator compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.artifact import Artifact
from edgekit.backends import Backend
from edgekit.backends.fused import as_fused
from edgekit.backends.source import ExportSource
from edgekit.metrics import sqnr_db
from edgekit.models.config import ViTConfig
from edgekit.models.vit import random_model
from edgekit.quantization.simulate import simulate
from edgekit.surgery.fold_layerscale import fold_layerscale
from tests.support.models import TINY_ROPE, TINY_ROPE_SWIGLU
from tests.support.plans import rtn_plan

SIZE = (80, 48)  # 5 x 3 patches of 16
LEAST_DB = {"fp32": 90.0, "fp16": 45.0, "w8": 30.0, "w8a8": 25.0, "w8a16": 19.0}  # from torch
FAITHFUL_DB = 25.0  # of w8a8 from the simulator: values between two integers may fall to either side, most in float16


def pixels(batch: int, seed: int = 0) -> np.ndarray:
    """(batch, 3, H, W) normal noise."""
    return torch.randn(batch, 3, *SIZE, generator=torch.Generator().manual_seed(seed)).numpy()


@pytest.mark.parametrize("config", [TINY_ROPE, TINY_ROPE_SWIGLU], ids=lambda config: config.arch)
def test_files_compute_what_torch_computes(backend: Backend, config: ViTConfig, tmp_path: Path) -> None:
    model = random_model(config).bake(*SIZE)
    plan = rtn_plan(model, torch.from_numpy(pixels(8, seed=1)))
    transform = config.preprocess(*SIZE)
    source = ExportSource(model, transform, plan, "t", "MIT", "0" * 64, "d", calibration=pixels(8, seed=1))
    with torch.no_grad():
        exact = model(torch.from_numpy(pixels(2)))[0].numpy()
        planned = simulate(as_fused(plan) if backend.own_kernels else plan)(torch.from_numpy(pixels(2)))[0].numpy()
    for precision in [kind for kind, variant in backend.variants() if variant == "standard" and kind in LEAST_DB]:
        artifact = backend.export(source, precision, "standard", tmp_path / backend.filename(precision, "standard"))
        assert backend.read(artifact.path) == artifact
        assert artifact.preprocess == transform
        if backend.runner_missing():
            continue
        found = run(backend, artifact)
        assert sqnr_db(exact, found) > LEAST_DB[precision], precision
        if precision == "w8a8":
            assert sqnr_db(planned, found) > FAITHFUL_DB


def run(backend: Backend, artifact: Artifact) -> np.ndarray:
    """`last_hidden_state` of two images."""
    return backend.runner(artifact, threads=1)(pixels(2))["last_hidden_state"]


@pytest.mark.parametrize("config", [TINY_ROPE, TINY_ROPE_SWIGLU], ids=lambda config: config.arch)
def test_fused_blocks_turn_queries_and_keys(backend: Backend, config: ViTConfig, tmp_path: Path) -> None:
    if backend.format not in ("onnx", "openvino"):
        pytest.skip("this format holds no op of edgekit's")
    if reason := backend.fused_missing():
        pytest.skip(reason)
    model = random_model(config).bake(*SIZE)
    fold_layerscale(model)
    plan = rtn_plan(model, torch.from_numpy(pixels(8, seed=1)))
    source = ExportSource(model, config.preprocess(*SIZE), plan, "t", "MIT", "0" * 64, "d")
    with torch.no_grad():
        exact = model(torch.from_numpy(pixels(2)))[0].numpy()
        planned = simulate(as_fused(plan))(torch.from_numpy(pixels(2)))[0].numpy()
    whole = {"fp32": (exact, 90.0), "w8a8": (planned, 25.0)}
    for precision, (expected, least) in whole.items():
        path = tmp_path / backend.filename(precision, "fused")  # type: ignore[arg-type]
        found = run(backend, backend.export(source, precision, "fused", path))  # type: ignore[arg-type]
        assert sqnr_db(expected, found) > least, precision
