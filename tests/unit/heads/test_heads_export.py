"""Heads inside exported files: every kind in one file, its outputs those of torch, the backbone there once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgekit
from edgekit.artifact import OUTPUT_NAMES, Artifact, Format, Preprocess
from edgekit.backends import get_backend
from edgekit.backends.source import ExportSource
from edgekit.graph.heads import Head
from edgekit.graph.torch_emitter import run_with_heads
from edgekit.heads.classification import PooledClassifier
from edgekit.heads.depth_anything import DepthAnything
from edgekit.models.depth_anything import DepthKind
from edgekit.models.vit import VisionTransformer, random_model
from edgekit.plan.heads import HeadPlan
from edgekit.plan.quant import QuantPlan
from edgekit.precision import Precision, Variant
from edgekit.quantization.heads import quantize_heads
from tests.support import official_heads as official
from tests.support.cpu import int8_gemms
from tests.support.models import TINY_REG
from tests.support.plans import rtn_plan

SIZE = (70, 56)  # 5 x 4 patches
CONFIG = replace(TINY_REG, depth=4)
WIDTH, LAST = CONFIG.width, CONFIG.depth - 1
FORMATS: tuple[Format, ...] = ("onnx", "openvino", "tflite", "coreml", "edgekit")
MOST = ["onnx", "openvino", "tflite", "edgekit", pytest.param("coreml", marks=pytest.mark.full)]  # which takes its time


def pixels() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((2, 3, *SIZE), np.float32)


@pytest.fixture(scope="module")
def model() -> VisionTransformer:
    return random_model(CONFIG).bake(*SIZE)


@pytest.fixture(scope="module")
def heads() -> dict[str, Head]:
    """One of every kind, and what only files of other libraries hold."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    every = tuple(range(CONFIG.depth))
    return official.every_kind(CONFIG) | {
        "pooled": PooledClassifier(
            normal(7, WIDTH) / 8, normal(7), (LAST,), "avg", (1 + normal(WIDTH) / 8, normal(WIDTH))
        ),
        "relative": depth_anything(DepthKind("v2", every)),
        "metric": depth_anything(DepthKind("v2", every, max_depth=20.0)),
    }


def depth_anything(kind: DepthKind) -> DepthAnything:
    """Random, its last convolution well above zero, where a ReLU would hide everything."""
    channels, fused = (8, 16, 24, 32), 16
    shapes: dict[str, tuple[int, ...]] = {f"projects.{i}": (c, WIDTH, 1, 1) for i, c in enumerate(channels)}
    shapes |= {"resize_layers.0": (8, 8, 4, 4), "resize_layers.1": (16, 16, 2, 2), "resize_layers.3": (32, 32, 3, 3)}
    shapes |= {f"scratch.layer{i + 1}_rn": (fused, c, 3, 3) for i, c in enumerate(channels)}
    shapes |= {f"scratch.refinenet{i}.out_conv": (fused, fused, 1, 1) for i in range(1, 5)}
    shapes |= {
        f"scratch.refinenet{i}.resConfUnit{unit}.conv{conv}": (fused, fused, 3, 3)
        for i in range(1, 5)
        for unit in (1, 2)
        for conv in (1, 2)
    }
    shapes |= {"scratch.output_conv1": (8, fused, 3, 3), "scratch.output_conv2.0": (32, 8, 3, 3)}
    shapes |= {"scratch.output_conv2.2": (1, 32, 1, 1)}
    rng = np.random.default_rng(2)
    state = {}
    for name, shape in shapes.items():
        state[f"{name}.weight"] = (rng.standard_normal(shape) / np.prod(shape[1:]) ** 0.5).astype(np.float32)
        state[f"{name}.bias"] = (rng.standard_normal(shape[0]) / 5).astype(np.float32)
    state["scratch.output_conv2.2.bias"] += 2 if kind.max_depth is None else 0
    return DepthAnything.from_state(state, CONFIG, kind)


@pytest.fixture(scope="module")
def plan(model: VisionTransformer) -> QuantPlan:
    return rtn_plan(model, torch.from_numpy(np.concatenate([pixels()] * 2)))


def exported(format_: Format, precision: Precision, variant: Variant, folder: Path, **given: Any) -> Artifact:
    backend = get_backend(format_)
    if (precision, variant) not in backend.variants():
        pytest.skip(f"{format_} writes no {precision} {variant}")
    if reason := backend.missing() or (backend.fused_missing() if variant == "fused" else None):
        pytest.skip(reason)
    fields = {"preprocess": Preprocess.for_size(*SIZE), "plan": None, "model_name": "tiny", "licence": "MIT"}
    source = ExportSource(**fields | given, parent_sha256="0" * 64, recipe_digest="digest")
    return backend.export(source, precision, variant, folder / backend.filename(precision, variant))


def distances(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    assert list(actual) == list(expected)
    return {
        name: float(np.abs(actual[name] - value).max() / max(1, np.abs(value).max()))
        for name, value in expected.items()
    }


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("variant", ["standard", "fused"])
def test_every_kind_of_head_gives_what_torch_gives(format_: Format, variant: Variant, model, heads, tmp_path: Path):
    artifact = exported(format_, "fp32", variant, tmp_path, model=model, heads=heads)
    actual = edgekit.load(artifact.path, threads=1)(pixels())
    expected = run_with_heads(model, heads, pixels())
    assert [spec.name for spec in artifact.outputs] == [*OUTPUT_NAMES, *heads]
    for spec in artifact.outputs:
        assert actual[spec.name].shape == (2, *spec.shape[1:])
        assert actual[spec.name].dtype == np.float32
    assert max(distances(actual, expected).values()) < 1e-3


@pytest.mark.parametrize("format_", MOST)
@pytest.mark.parametrize(
    ("precision", "variant"),
    [
        ("fp16", "standard"),
        ("w8", "standard"),
        ("w8a8", "standard"),
        ("w8a16", "standard"),
        ("w8a8", "fused"),
        ("w8a16", "fused"),
    ],
)
def test_heads_see_the_features_of_the_precision(
    format_: Format, precision: Precision, variant: Variant, model, heads, plan: QuantPlan, tmp_path: Path
):
    if precision in get_backend(format_).integer_only:
        pytest.skip("of integers throughout, which have no heads")
    artifact = exported(format_, precision, variant, tmp_path, model=model, heads=heads, plan=plan)
    actual = get_backend(format_).runner(artifact, 1)(pixels())
    expected = run_with_heads(model, heads, pixels())
    assert list(actual) == list(expected)
    for name, value in expected.items():
        a, b = (x.reshape(2, -1) - value.mean() for x in (actual[name], value))
        cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosine.min() > (0.999 if precision == "fp16" else 0.8), name


@pytest.fixture(scope="module")
def head_plan(model, heads) -> HeadPlan:
    """Of everything, however much it costs these random heads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgekit.quantization.heads.LEAST_SQNR_DB", -100.0)
        return quantize_heads(model, heads, np.concatenate([pixels()] * 5))


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("precision", ["w8a8", "w8"])
def test_heads_compute_with_the_integers_of_their_plan(
    format_: Format, precision: Precision, model, heads, plan: QuantPlan, head_plan: HeadPlan, tmp_path: Path
):
    """Over a backbone that its plan leaves float: what differs from torch is the heads' alone."""
    alone = precision == "w8" or get_backend(format_).own_kernels
    wanted = head_plan.weights_alone() if alone else head_plan
    given = {"model": model, "heads": heads, "plan": replace(plan, gemms={}), "head_plan": wanted}
    artifact = exported(format_, precision, "standard", tmp_path, **given)
    actual = get_backend(format_).runner(artifact, 1)(pixels())
    planned = run_with_heads(model, heads, pixels(), wanted)
    floating = run_with_heads(model, heads, pixels())
    for name in heads:
        near, far = (np.linalg.norm(actual[name] - other[name]) for other in (planned, floating))
        exact = np.linalg.norm(planned[name]) * (5e-3 if format_ == "coreml" else 1e-4)  # whose floats are float16
        # ONNX Runtime rounds the input of linear layers of its own accord; and each of a DPT's forty roundings makes a
        # whole step of the last bit that floats differ in (float16 ones of Core ML put the maps of Depth Anything at
        # 0.93). Noise that is not the plan's would be at 1.4.
        fused = name in ("dpt", "relative", "metric")
        share = 0.8 if fused or format_ == "onnx" else 1 / 3
        share = 1.1 if fused and format_ == "coreml" else share
        assert near < max(share * far, exact), name
    note = next(note for note in artifact.notes if note.startswith("head dpt"))
    assert ("int8 products in 0 layers" in note) == alone
    if not alone and format_ != "coreml":
        whole = sum(layer.input is not None for layer in head_plan.layers.values())
        assert whole > 40
        assert get_backend(format_).audit(artifact)["gemms_int8"] >= int8_gemms(format_, whole)


def test_weights_of_heads_count_where_products_saturate(model, plan: QuantPlan, head_plan: HeadPlan):
    """A backbone of 4 bits saturates nowhere, its 8-bit heads do."""
    given = {"preprocess": Preprocess.for_size(*SIZE), "model_name": "tiny", "licence": "MIT", "model": model}
    four = replace(plan, gemms={name: replace(gemm, weight_bits=4) for name, gemm in plan.gemms.items()})
    source = ExportSource(**given, plan=four, parent_sha256="0" * 64, recipe_digest="digest")
    assert not source.may_saturate_int16
    assert replace(source, head_plan=head_plan).may_saturate_int16
    assert replace(source, plan=plan).may_saturate_int16


@pytest.mark.parametrize("format_", MOST)
def test_integers_make_heads_smaller(format_: Format, model, heads, plan: QuantPlan, head_plan: HeadPlan, tmp_path):
    given = {"model": model, "heads": {"dpt": heads["dpt"]}, "plan": plan}
    floating = exported(format_, "w8a8", "standard", tmp_path / "a", **given)
    integers = exported(format_, "w8a8", "standard", tmp_path / "b", **given, head_plan=head_plan)
    weights = sum(layer.weight.size for name, layer in head_plan.layers.items() if ".dpt." in name) / 1e6
    saved = (1 if format_ == "coreml" else 3) * weights  # of two bytes each, or of four, one is left
    assert floating.size_mb - integers.size_mb > saved - 0.15  # scales, quantizers and names take some


@pytest.mark.parametrize("format_", MOST)
def test_the_backbone_is_there_once_and_unchanged(format_: Format, model, heads, tmp_path: Path):
    plain, several = (
        exported(format_, "fp32", "standard", tmp_path / name, model=model, heads=given)
        for name, given in (("plain", {}), ("several", heads))
    )
    sizes = sum(value.nbytes for head in heads.values() for value in arrays_of(head))
    assert several.size_mb - plain.size_mb < 1.1 * sizes / 1e6 + 0.5
    a, b = (get_backend(format_).runner(artifact, 1)(pixels())["last_hidden_state"] for artifact in (plain, several))
    assert np.abs(a - b).max() < 1e-4
    again = exported(format_, "fp32", "standard", tmp_path / "again", model=model, heads=heads)
    assert again.sha256 == several.sha256


def arrays_of(value: object) -> list[np.ndarray]:
    """Every array inside a head."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, dict):
        return [array for part in value.values() for array in arrays_of(part)]
    if isinstance(value, tuple):
        return [array for part in value for array in arrays_of(part)]
    return [array for part in vars(value).values() for array in arrays_of(part)] if hasattr(value, "__dict__") else []


@pytest.mark.parametrize("format_", ["onnx", "openvino"])
def test_heads_of_a_file_for_any_size_have_maps_of_their_image(format_: Format, heads, tmp_path: Path):
    model, backend = random_model(CONFIG), get_backend(format_)
    transform = CONFIG.preprocess(*SIZE, sides=(28, 140))
    source = ExportSource(model, transform, None, "tiny", "MIT", "0" * 64, "digest", heads=heads)
    artifact = backend.export(source, "fp32", "standard", tmp_path / f"model{backend.suffix}")
    runner = backend.runner(artifact, threads=1)
    for size in ((28, 28), (42, 112), (84, 98)):
        given = np.random.default_rng(1).standard_normal((2, 3, *size), np.float32)
        wanted, found = run_with_heads(model, heads, given), runner(given)
        for name, head in heads.items():
            assert found[name].shape == (2, *head.shape(CONFIG.grid_of(*size))), name
        assert max(distances(found, wanted).values()) < 1e-3, size
