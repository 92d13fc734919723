"""`.edgekit` files: what libedgekit computes of them, on any size, and what cannot be one."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import edgekit
from edgekit.artifact import Artifact
from edgekit.backends import get_backend
from edgekit.backends.edgekit.container import golden_picture
from edgekit.backends.fused import as_fused
from edgekit.backends.source import ExportSource
from edgekit.errors import DataError, ExportError
from edgekit.images import preprocess
from edgekit.images.preprocess import pixels_of
from edgekit.metrics import sqnr_db
from edgekit.models.config import ViTConfig
from edgekit.models.vit import VisionTransformer, random_model
from edgekit.native.model import NativeModel
from edgekit.plan.quant import QuantPlan
from edgekit.precision import Precision, Variant
from edgekit.quantization.simulate import simulate
from tests.support.models import TINY, TINY_REG, TINY_ROPE, TINY_ROPE_SWIGLU, TINY_SWIGLU
from tests.support.plans import rtn_plan

CONFIGS = [TINY, TINY_REG, TINY_SWIGLU, TINY_ROPE, TINY_ROPE_SWIGLU]
PATCHES = (5, 4)  # rows, columns


def noise(config: ViTConfig, batch: int, seed: int, grid: tuple[int, int] = PATCHES) -> torch.Tensor:
    """(batch, 3, H, W) normal noise."""
    sides = [side * config.patch for side in grid]
    return torch.randn(batch, 3, *sides, generator=torch.Generator().manual_seed(seed))


def baked(config: ViTConfig) -> VisionTransformer:
    return random_model(config).bake(*(side * config.patch for side in PATCHES))


def source_of(model: VisionTransformer, plan: QuantPlan | None = None) -> ExportSource:
    transform = model.config.preprocess(*(side * model.config.patch for side in PATCHES))
    return ExportSource(model, transform, plan, "tiny", "MIT", "0" * 64, "digest")


def written(
    source: ExportSource, precision: Precision, folder: Path, format_: str = "edgekit", variant: Variant = "standard"
) -> Artifact:
    backend = get_backend(format_)
    return backend.export(source, precision, variant, folder / backend.filename(precision, variant))


@torch.no_grad()
def tokens_of(model: torch.nn.Module, pixels: torch.Tensor) -> np.ndarray:
    return model(pixels)[0].numpy()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.arch)
def test_files_compute_what_torch_and_the_simulator_compute(config: ViTConfig, tmp_path: Path) -> None:
    model, pixels = baked(config), noise(config, 2, 0)
    plan = rtn_plan(model, noise(config, 8, 1))
    exact, planned = tokens_of(model, pixels), tokens_of(simulate(as_fused(plan)), pixels)
    found = {
        precision: edgekit.load(written(source_of(model, plan), precision, tmp_path).path, threads=1)(pixels.numpy())
        for precision in ("fp32", "w8a8", "w8a16")
    }
    assert np.abs(found["fp32"]["last_hidden_state"] - exact).max() < 1e-4
    assert sqnr_db(planned, found["w8a8"]["last_hidden_state"]) > 30
    assert sqnr_db(exact, found["w8a16"]["last_hidden_state"]) > sqnr_db(exact, found["w8a8"]["last_hidden_state"]) > 30


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.arch)
@pytest.mark.parametrize("precision", ["fp32", "w8a8", "w8a16"])
def test_the_same_integers_give_what_the_fused_op_gives(
    config: ViTConfig, precision: Precision, tmp_path: Path
) -> None:
    """Inside ONNX Runtime the same kernels run: only patch embedding and final norm have another order of sums."""
    if reason := get_backend("onnx").fused_missing():
        pytest.skip(reason)
    model = baked(config)
    source = source_of(model, rtn_plan(model, noise(config, 8, 1)))
    pixels = noise(config, 2, 0).numpy()
    own, other = (
        edgekit.load(written(source, precision, tmp_path, *kind).path, threads=1)(pixels)["last_hidden_state"]
        for kind in (("edgekit",), ("onnx", "fused"))
    )
    assert sqnr_db(other, own) > (
        110 if precision == "fp32" else 40
    )  # a float at the edge of two integers takes either


@pytest.mark.parametrize("grid", [(3, 4), (5, 7), (9, 2), (16, 16)])
@pytest.mark.parametrize(
    "config",
    [
        TINY,
        TINY_REG,
        replace(TINY, arch="size", interpolation="size"),
        TINY_ROPE,
        replace(TINY_ROPE, rope_periods="bfloat16"),
    ],
    ids=["offset", "antialias", "size", "rope", "bfloat16"],
)
def test_any_size_has_the_positions_that_torch_gives_it(
    config: ViTConfig, grid: tuple[int, int], tmp_path: Path
) -> None:
    model, pixels = baked(config), noise(config, 1, 0, grid)
    native = NativeModel(written(source_of(model), "fp32", tmp_path).path)
    found = native.context().run(pixels.numpy())["last_hidden_state"]
    assert np.abs(found - tokens_of(model, pixels)).max() < 1e-4


def test_a_size_between_patches_is_refused_and_the_context_goes_on(tmp_path: Path) -> None:
    context = NativeModel(written(source_of(baked(TINY)), "fp32", tmp_path).path).context()
    with pytest.raises(DataError, match="71x56 is not a positive multiple of 14"):
        context.run(np.zeros((1, 3, 71, 56), np.float32))
    assert context.run(noise(TINY, 1, 0).numpy())["pooler_output"].shape == (1, 128)


@pytest.mark.parametrize("size", [(70, 56), (300, 200), (31, 500), (1024, 60), (56, 70), (14, 14), (57, 1), (71, 57)])
def test_pictures_are_cropped_as_pillow_crops_them(size: tuple[int, int], tmp_path: Path) -> None:
    native = NativeModel(written(source_of(baked(TINY)), "fp32", tmp_path).path)
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    for crop_size in ((70, 56), (28, 42)):
        transform = TINY.preprocess(*crop_size)
        expected = preprocess(Image.fromarray(picture), transform)
        crop = native.crop(picture, crop_size)
        np.testing.assert_allclose(pixels_of(crop, transform), expected, atol=1e-6)
        found = native.context().run_picture(picture, crop_size)["pooler_output"]
        np.testing.assert_allclose(found, native.context().run(expected[None])["pooler_output"], atol=1e-4)


def test_threads_and_batches_change_no_bit(tmp_path: Path) -> None:
    model = baked(TINY_REG)
    plan = rtn_plan(model, noise(TINY_REG, 8, 1))
    for precision in ("fp32", "w8a8", "w8a16"):
        native = NativeModel(written(source_of(model, plan), precision, tmp_path).path)  # type: ignore[arg-type]
        pixels = noise(TINY_REG, 5, 0).numpy()
        expected = native.context(1).run(pixels)["last_hidden_state"]
        for threads in (2, 3, 16):
            np.testing.assert_array_equal(native.context(threads).run(pixels)["last_hidden_state"], expected)
        np.testing.assert_array_equal(native.context().run(pixels[3:4])["last_hidden_state"], expected[3:4])


def test_a_layer_that_the_plan_keeps_float_stays_float_in_its_block(tmp_path: Path) -> None:
    model, kept = baked(TINY_REG), ("blocks.0.attn.proj", "blocks.1.mlp.fc1")
    pixels = noise(TINY_REG, 2, 0)
    plan = rtn_plan(model, noise(TINY_REG, 8, 1), keep_float=kept)
    artifact = written(source_of(model, plan), "w8a8", tmp_path)
    assert {"blocks.0.attn.proj stays float: asked for by the test"} <= set(artifact.notes)
    audit = get_backend("edgekit").audit(artifact)
    assert (audit["gemms_int8"], audit["float_gemms"]) == (6, ["patch_embed.proj", *kept])
    found = edgekit.load(artifact.path, threads=1)(pixels.numpy())["last_hidden_state"]
    assert sqnr_db(tokens_of(simulate(as_fused(plan, mixed=True)), pixels), found) > 30


def test_a_rotated_model_is_turned_back(tmp_path: Path) -> None:
    from edgekit.surgery.fold_layerscale import fold_layerscale
    from edgekit.surgery.rotate import mean_preserving_rotation, rotate

    model, pixels = baked(TINY), noise(TINY, 2, 0)
    expected = tokens_of(model, pixels)
    fold_layerscale(model)
    rotate(model, mean_preserving_rotation(TINY.width))
    found = edgekit.load(written(source_of(model), "fp32", tmp_path).path, threads=1)(pixels.numpy())
    assert np.abs(found["last_hidden_state"] - expected).max() < 1e-4


def test_what_the_kernels_cannot_run_is_refused_by_name(tmp_path: Path) -> None:
    model = baked(TINY)
    plan = rtn_plan(model, noise(TINY, 8, 1), group_size=32)
    with pytest.raises(ExportError, match=r"blocks\.0\.attn\.qkv has 4 weight scales"):
        written(source_of(model, plan), "w8a8", tmp_path)
    with pytest.raises(ExportError, match="does not write w4a8"):
        written(source_of(model, plan), "w4a8", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_one_integer_that_is_not_the_plans_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.backends.edgekit import container

    plan = rtn_plan(model := baked(TINY), noise(TINY, 8, 1))
    numbers_of = container.numbers_of
    saved = []

    def once_wrong(gemm):
        numbers = numbers_of(gemm)
        if gemm.name == "blocks.1.mlp.fc2" and not saved:
            saved.append(gemm.name)
            numbers["weight"] = numbers["weight"].copy()
            numbers["weight"][3, 5] ^= 1
        return numbers

    monkeypatch.setattr(container, "numbers_of", once_wrong)
    with pytest.raises(ExportError, match=r"blocks\.1\.mlp\.fc2\.weight differs"):
        written(source_of(model, plan), "w8a8", tmp_path)


def test_the_golden_picture_tells_a_wrong_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgekit.backends.edgekit import container

    source = source_of(baked(TINY))
    assert NativeModel(written(source, "fp32", tmp_path).path).check() > 0.9999999
    assert golden_picture(70, 56, 14).shape == (70, 56, 3)
    monkeypatch.setattr(container, "golden_output", lambda source: np.arange(128, dtype=np.float32))
    with pytest.raises(ExportError, match="does not pass its own test"):
        written(source, "fp32", tmp_path)


WITHOUT_OTHERS = """
import sys
for name in "torch onnx onnxruntime openvino coremltools ai_edge_litert safetensors scipy psutil".split():
    sys.modules[name] = None  # what imports it fails
import numpy as np, edgekit
np.save(sys.argv[2], edgekit.load(sys.argv[1], threads=1)(np.load(sys.argv[2]))["pooler_output"])
"""


def test_numpy_alone_loads_and_runs_a_file(tmp_path: Path) -> None:
    path, pixels = written(source_of(baked(TINY)), "fp32", tmp_path).path, noise(TINY, 1, 0).numpy()
    np.save(tmp_path / "array.npy", pixels)
    code = [sys.executable, "-c", WITHOUT_OTHERS, str(path), str(tmp_path / "array.npy")]
    done = subprocess.run(code, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = edgekit.load(path, threads=1)(pixels)["pooler_output"]
    np.testing.assert_allclose(np.load(tmp_path / "array.npy"), expected, atol=1e-5)
