"""The export contract of DESIGN: names, shapes, types, batches, parity with torch, and the plan's own integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgekit.artifact import INPUT_NAME, OUTPUT_NAMES, Artifact
from edgekit.backends import Backend
from edgekit.backends.fused import as_fused
from edgekit.errors import DataError, ExportError
from edgekit.models.vit import VisionTransformer
from edgekit.plan.quant import FloatInput, QuantPlan
from edgekit.precision import Variant
from edgekit.quantization.simulate import simulate
from edgekit.surgery import restore
from tests.conformance.conftest import SIZE, Exported, random_pixels

HALF = ("coreml",)  # computes in float16 between the GEMMs, whose rounding moves some inputs to the next integer
MODELS = ("tiny_model", "tiny_reg_model", "tiny_swiglu_model")


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of all tokens of all images as one vector: single tokens differ more where float rounding flips an integer."""
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@torch.no_grad()
def torch_tokens(model: VisionTransformer, pixels: torch.Tensor) -> np.ndarray:
    return model(pixels)[0].numpy()


def as_run(backend: Backend, plan: QuantPlan, variant: Variant) -> QuantPlan:
    """The plan as a w8a8 file computes it: static ranges of inputs, or ranges per token in edgekit's own kernels."""
    if variant == "standard" and not backend.own_kernels:
        return plan
    return as_fused(plan, mixed=backend.own_kernels)


def float_activations(plan: QuantPlan) -> VisionTransformer:
    """The plan's integer weights and uncorrected biases under float activations."""
    model = restore(plan.config, plan.float_tensors)
    for name, gemm in plan.gemms.items():
        module = model.get_submodule(name)
        module.weight.data = torch.from_numpy(gemm.dequantized()).reshape(module.weight.shape)
        module.bias.data = torch.from_numpy(gemm.bias_dynamic)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_fp32_equals_torch(
    name: str, make: Callable[[VisionTransformer], Exported], tiny: Exported, request: pytest.FixtureRequest
) -> None:
    exported = tiny if name == "tiny_reg_model" else make(request.getfixturevalue(name))
    pixels = random_pixels(2)
    outputs = exported.run(exported.export("fp32", "standard"), pixels.numpy())
    assert np.abs(outputs["last_hidden_state"] - torch_tokens(exported.model, pixels)).max() < 1e-4


def test_every_variant_keeps_the_contract(tiny: Exported) -> None:
    """Names, shapes, types, any batch, and images that do not see each other; and it is the same model."""
    pixels = random_pixels(3)
    tokens, channels = 1 + 4 + 5 * 4, tiny.model.config.width
    expected = torch_tokens(tiny.model, pixels)
    for precision, variant in tiny.kinds():
        artifact = tiny.export(precision, variant)
        integers = precision in tiny.backend.integer_only
        _check_description(artifact, tokens, channels, "int8" if integers else "float32")
        three = tiny.run(artifact, pixels.numpy())
        assert tuple(three) == OUTPUT_NAMES, artifact.name
        assert [value.shape for value in three.values()] == [(3, tokens, channels), (3, channels)], artifact.name
        assert {value.dtype for value in three.values()} == {np.dtype(np.float32)}, artifact.name
        if integers:  # whose outputs have an int8 grid each
            assert cosine(three["pooler_output"], three["last_hidden_state"][:, 0]) > 0.9995
        else:
            np.testing.assert_array_equal(three["pooler_output"], three["last_hidden_state"][:, 0])
        one = tiny.run(artifact, pixels[1:2].numpy())
        if variant != "dynamic":  # whose range, one per tensor, is that of the whole batch
            assert cosine(one["last_hidden_state"], three["last_hidden_state"][1:2]) > 0.99999, artifact.name
        assert cosine(three["last_hidden_state"], expected) > {"w4a8": 0.9}.get(precision, 0.99), artifact.name


def _check_description(artifact: Artifact, tokens: int, channels: int, dtype: str) -> None:
    """`dtype` is that of inputs and outputs in the file; runners convert."""
    (pixels,) = artifact.inputs
    assert (pixels.name, pixels.dtype) == (INPUT_NAME, dtype)
    sides = {"NCHW": (3, *SIZE), "NHWC": (*SIZE, 3)}[pixels.layout]
    batch = pixels.shape[0]
    assert batch in ("batch", 1)
    assert pixels.shape[1:] == sides
    assert [spec.name for spec in artifact.outputs] == [*OUTPUT_NAMES]
    assert {spec.dtype for spec in artifact.outputs} == {dtype}
    assert [spec.shape for spec in artifact.outputs] == [(batch, tokens, channels), (batch, channels)]


def test_integers_are_those_of_the_plan(tiny: Exported) -> None:
    """The runtime computes what the simulator computes from the same plan."""
    pixels = random_pixels(3).clamp(-2.1, 2.2)  # what pictures can be, for inputs that hold no more
    for precision, variant in tiny.kinds():
        if precision in ("fp32", "fp16"):
            continue
        artifact = tiny.export(precision, variant)
        actual = tiny.run(artifact, pixels.numpy())["last_hidden_state"]
        if precision == "w8a8" and variant != "dynamic":
            oracle = simulate(as_run(tiny.backend, tiny.plan, variant))
            least = 0.9997 if tiny.backend.format in HALF else 0.9999
            assert cosine(actual, torch_tokens(oracle, pixels)) >= least, artifact.name
        else:  # the runtime quantizes activations by itself, or not at all
            assert cosine(actual, torch_tokens(float_activations(tiny.plan), pixels)) >= 0.999, artifact.name


def test_a_plan_of_weights_alone_is_for_float_activations(tiny: Exported) -> None:
    """And the static w8a8 file refuses it, instead of making up ranges."""
    gemms = {name: replace(gemm, input=FloatInput()) for name, gemm in tiny.plan.gemms.items()}
    weights = replace(tiny, plan=replace(tiny.plan, gemms=gemms), artifacts={}, folder=tiny.folder / "weights")
    pixels = random_pixels(2)
    for precision, variant, oracle, least in (
        ("w8", "standard", weights.plan, 0.9999 if tiny.backend.format in HALF else 0.999999),
        ("w8a16", "fused", as_fused(weights.plan), 0.99999),  # 16 bits are not quite floats
        ("w8a16", "standard", as_fused(weights.plan), 0.99999),
    ):
        if (precision, variant) in tiny.kinds() and precision not in tiny.backend.integer_only:
            actual = weights.run(weights.export(precision, variant), pixels.numpy())["last_hidden_state"]
            assert cosine(actual, torch_tokens(simulate(oracle), pixels)) >= least, (precision, variant)
    with pytest.raises(ExportError, match="float"):
        weights.export("w8a8", "standard")


@pytest.mark.parametrize("name", ["patch_embed.proj", "blocks.0.attn.qkv", "blocks.1.mlp.fc2"])
def test_one_gemm_alone_is_nearly_exact(name: str, tiny: Exported) -> None:
    """No later quantizer turns float rounding into flipped integers: what is left is the arithmetic of one GEMM."""
    alone = replace(tiny, plan=replace(tiny.plan, gemms={name: tiny.plan.gemms[name]}), artifacts={})
    alone = replace(alone, folder=tiny.folder / name)
    oracle = as_run(tiny.backend, alone.plan, "standard")
    if not oracle.gemms:
        pytest.skip("the patch embedding is float in edgekit's own kernels")
    pixels = random_pixels(1)
    actual = alone.run(alone.export("w8a8", "standard"), pixels.numpy())["last_hidden_state"]
    expected = torch_tokens(simulate(oracle), pixels)
    error = float(np.square(actual - expected).sum())
    half, own = tiny.backend.format in HALF, tiny.backend.own_kernels  # whose attention rounds to 8 bits, too
    assert 10 * np.log10(np.square(expected).sum() / error) > (45 if own else 48 if half else 55)
    unquantized = torch_tokens(tiny.model, pixels)
    quantized = float(np.square(actual - unquantized).sum())
    assert error < (0.7 if own else 0.25 if half else 0.05) * quantized  # and it is quantized


def test_threads_are_taken_and_change_nothing(tiny: Exported) -> None:
    artifact = tiny.export("fp32", "standard")
    pixels = random_pixels(1).numpy()
    one = tiny.run(artifact, pixels)["last_hidden_state"]
    for threads in (None, 2):
        many = tiny.backend.runner(artifact, threads)(pixels)["last_hidden_state"]
        np.testing.assert_allclose(many, one, atol=1e-4)


def test_images_of_any_size_or_a_refusal_that_says_so(tiny: Exported, tiny_reg_model: VisionTransformer) -> None:
    """One file at two sizes, one of them not square; or an error that names what the format has instead."""
    transform = tiny_reg_model.config.preprocess(*SIZE, sides=(28, 98))
    source = replace(tiny.source(planned=False), model=tiny_reg_model, preprocess=transform)
    path = tiny.folder / "any" / f"model{tiny.backend.suffix}"
    if not tiny.backend.any_size:
        with pytest.raises(ExportError, match="one size"):
            tiny.backend.export(source, "fp32", "standard", path)
        return
    artifact = tiny.backend.export(source, "fp32", "standard", path)
    for size in ((42, 98), (70, 70)):
        pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = tiny_reg_model(pixels)[0].numpy()
        found = tiny.run(artifact, pixels.numpy())["last_hidden_state"]
        np.testing.assert_allclose(found, expected, atol=1e-4)
    with pytest.raises(DataError, match="70x56"):
        tiny.run(artifact, np.zeros((1, 3, 75, 56), np.float32))
