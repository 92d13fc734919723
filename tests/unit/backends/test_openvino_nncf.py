"""NNCF as engine: an int8 artifact under the same contract, options that matter, accuracy control that holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.artifact import Artifact, Preprocess
from edgekit.backends.openvino.backend import OpenVinoBackend
from edgekit.backends.openvino.nncf import NncfOptions, nncf_quantize
from edgekit.backends.source import ExportSource
from edgekit.errors import DataError, DriftExceeded, ExportError
from edgekit.models.vit import VisionTransformer

pytest.importorskip("nncf")


def pixels(count: int, seed: int = 0) -> np.ndarray:
    return torch.randn(count, 3, 56, 56, generator=torch.Generator().manual_seed(seed)).numpy()


@pytest.fixture(scope="module")
def fp32(tiny_reg_model: VisionTransformer, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    source = ExportSource(tiny_reg_model.bake(56, 56), Preprocess.for_size(56, 56), None, "tiny", "MIT", "0" * 64, "")
    return OpenVinoBackend().export(source, "fp32", "standard", tmp_path_factory.mktemp("nncf") / "model.xml")


def class_tokens(artifact: Artifact, x: np.ndarray) -> np.ndarray:
    return OpenVinoBackend().runner(artifact, 1)(x)["pooler_output"]


def test_int8_by_nncf_keeps_the_contract_and_the_features(fp32: Artifact, tmp_path: Path) -> None:
    artifact = nncf_quantize(fp32, pixels(8), tmp_path / "model_w8a8_nncf.xml")
    assert (artifact.name, artifact.precision, artifact.inputs) == ("openvino/w8a8_nncf", "w8a8", fp32.inputs)
    assert artifact.size_mb < 0.5 * fp32.size_mb
    assert "nncf" in artifact.tools
    audit = OpenVinoBackend().audit(artifact)
    assert (audit["gemms"], audit["gemms_int8"]) == (9, 9)  # at OpenVINO's own settings
    reference, quantized = class_tokens(fp32, pixels(4, seed=1)), class_tokens(artifact, pixels(4, seed=1))
    cosine = (reference * quantized).sum(1) / np.linalg.norm(reference, axis=1) / np.linalg.norm(quantized, axis=1)
    assert 0.99 < cosine.min() < 1 - 1e-6


def test_same_images_give_the_same_bytes_and_options_others(fp32: Artifact, tmp_path: Path) -> None:
    first = nncf_quantize(fp32, pixels(4), tmp_path / "a.xml")
    again = nncf_quantize(fp32, pixels(4), tmp_path / "b.xml")
    unsmoothed = nncf_quantize(fp32, pixels(4), tmp_path / "c.xml", NncfOptions("performance", -1, "off", "half-range"))
    assert (tmp_path / "a.xml").read_bytes() == (tmp_path / "b.xml").read_bytes()
    assert first.path.with_suffix(".bin").read_bytes() == again.path.with_suffix(".bin").read_bytes()
    assert first.path.with_suffix(".bin").read_bytes() != unsmoothed.path.with_suffix(".bin").read_bytes()


def test_accuracy_control_puts_layers_back_until_the_drop_holds(fp32: Artifact, tmp_path: Path) -> None:
    held_out = pixels(4, seed=1)
    reference = class_tokens(fp32, held_out)

    def drop(artifact: Artifact) -> float:
        tokens = class_tokens(artifact, held_out)
        norms = np.linalg.norm(reference, axis=1) * np.linalg.norm(tokens, axis=1)
        return float(1 - ((reference * tokens).sum(1) / norms).mean())

    free = nncf_quantize(fp32, pixels(4), tmp_path / "free.xml", NncfOptions(smooth_quant_alpha=-1))
    limit = 0.7 * drop(free)
    controlled = nncf_quantize(fp32, pixels(4), tmp_path / "held.xml", NncfOptions(max_drop=limit), held_out)
    assert drop(controlled) <= limit + 1e-6
    audit = OpenVinoBackend().audit(controlled)
    assert isinstance(audit["gemms_int8"], int)
    assert audit["gemms_int8"] < 9


@pytest.mark.full
def test_accuracy_control_that_fails_says_so(fp32: Artifact, tmp_path: Path) -> None:
    """NNCF restores un-smoothed weights behind smoothed activations, and returns such a model without complaint."""
    options = NncfOptions(smooth_quant_alpha=0.95, max_drop=1e-7)
    with pytest.raises(DriftExceeded, match="above 1e-07"):
        nncf_quantize(fp32, pixels(4), tmp_path / "m.xml", options, pixels(4, seed=1))
    assert not list(tmp_path.iterdir())


def test_requests_that_cannot_be_met_are_refused(fp32: Artifact, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="held-out"):
        nncf_quantize(fp32, pixels(2), tmp_path / "m.xml", NncfOptions(max_drop=0.01))
    with pytest.raises(DataError, match="no calibration"):
        nncf_quantize(fp32, pixels(0), tmp_path / "m.xml")
    with pytest.raises(ExportError, match="openvino/fp32"):
        nncf_quantize(
            fp32.model_copy(update={"precision": "fp16", "name": "openvino/fp16"}), pixels(2), tmp_path / "m.xml"
        )
    assert not list(tmp_path.iterdir())
