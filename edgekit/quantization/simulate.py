"""The simulator: runs a QuantPlan with exact integer arithmetic in torch, and is the oracle for every runtime.

Integers are held in float64, whose 53-bit significand makes every int32 accumulation exact. Activations round half to
even, like QuantizeLinear in ONNX and FakeQuantize in OpenVINO.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from edgekit.plan.quant import (
    LEAST_PEAK,
    FloatInput,
    GemmPlan,
    InputQuantizer,
    MatmulPlan,
    PerTokenInput,
    StaticInput,
    TokenGroupInput,
    TokenScaledInput,
    dither,
)
from edgekit.surgery import restore

if TYPE_CHECKING:
    from edgekit.models.vit import VisionTransformer
    from edgekit.plan.quant import QuantPlan

Kernel = Literal["int32", "pmaddubsw", "float32"]
"""How u8*s8 is accumulated: exactly; in pairs that saturate to int16 first (AVX2 without VNNI); or in float32, equal to
the first up to rounding and several times faster, for the engine's own runs."""


def per_token_scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point (..., 1) of each token (last axis = channels): uint8, asymmetric, 0 inside the range."""
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))  # an all-zero token quantizes to its zero point
    return scale, torch.round(-low / scale).clamp(0, 255)


def token_peak(x: Tensor) -> Tensor:
    """Per-token abs-max, by which `TokenScaledInput` divides each token: x (..., K) -> (..., 1)."""
    return x.abs().amax(-1, keepdim=True).clamp(min=LEAST_PEAK)


def input_scale(quantizer: InputQuantizer, x: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point that `quantizer` uses for x (..., N, K), broadcastable to it."""
    match quantizer:
        case StaticInput(scale, zero):
            return torch.tensor(scale, dtype=x.dtype), torch.tensor(float(zero), dtype=x.dtype)
        case TokenGroupInput(split, head, tail):
            tokens = torch.arange(x.shape[-2])[:, None] < split  # (N, 1)
            return (
                torch.where(tokens, head.scale, tail.scale).to(x.dtype),
                torch.where(tokens, float(head.zero_point), float(tail.zero_point)).to(x.dtype),
            )
        case TokenScaledInput(quotient):
            return quotient.scale * token_peak(x), torch.tensor(float(quotient.zero_point), dtype=x.dtype)
        case PerTokenInput():
            return per_token_scale(x)
        case FloatInput():
            raise ValueError("a float input has no scale")


def quantize_input(quantizer: InputQuantizer, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize x (..., N, K) to (integers 0..255 held as float32, scale, zero point)."""
    scale, zero = input_scale(quantizer, x)
    if isinstance(quantizer, TokenScaledInput):
        quotient = x * token_peak(x).reciprocal()  # in the order that runtimes compute it
        return (torch.round(quotient / quantizer.quotient.scale) + zero).clamp(0, 255), scale, zero
    return (torch.round(x / scale) + zero).clamp(0, 255), scale, zero


def fake_quantize(quantizer: InputQuantizer, x: Tensor) -> Tensor:
    """Quantize and dequantize x; x itself where it is not quantized."""
    if isinstance(quantizer, FloatInput):
        return x
    q, scale, zero = quantize_input(quantizer, x)
    return (q - zero) * scale


def accumulate(x_q: Tensor, zero: Tensor, weight: Tensor, kernel: Literal["int32", "pmaddubsw"]) -> Tensor:
    """The accumulator sum_k (x_q - zero) * w of a CPU with that kernel, for x_q (..., K) and weight (out, K)."""
    if kernel == "int32":
        return (x_q.double() - zero.double()) @ weight.double().T
    pairs_x = x_q.double().unflatten(-1, (-1, 2))  # (..., K/2, 2)
    pairs_w = weight.double().unflatten(-1, (-1, 2))  # (out, K/2, 2)
    out = torch.empty(*x_q.shape[:-1], len(weight), dtype=torch.float64)
    for o in range(len(weight)):  # one output channel at a time bounds the memory
        out[..., o] = (pairs_x * pairs_w[o]).sum(-1).clamp(-32768, 32767).sum(-1)
    return out - zero.double() * weight.double().sum(1)


class IntegerLinear(nn.Module):
    """A linear (or the patch convolution) that runs as its GemmPlan says."""

    weight: Tensor  # (out, K) int8, in steps of its scales
    weight_scale: Tensor  # (out, groups)
    bias: Tensor

    def __init__(self, gemm: GemmPlan, *, kernel: Kernel = "int32", per_token: bool = False) -> None:
        """`per_token` overrides the plan's static quantizer: what the fused ops do, with the uncorrected bias."""
        super().__init__()
        self.name = gemm.name
        self.quantizer: InputQuantizer = PerTokenInput() if per_token else gemm.input
        self.kernel: Kernel = kernel
        self.register_buffer("weight", torch.from_numpy(gemm.centered_int8()))
        self.register_buffer("weight_scale", torch.from_numpy(gemm.weight_scale))
        self.register_buffer("bias", torch.from_numpy(gemm.bias_dynamic if per_token else gemm.bias))

    def forward(self, x: Tensor) -> Tensor:
        """Quantize, multiply in integers and dequantize: (..., N, K) float32 -> (..., N, out) float32."""
        if isinstance(self.quantizer, FloatInput):
            return nn.functional.linear(x, self.real_weight(), self.bias)
        x_q, x_scale, zero = quantize_input(self.quantizer, x)
        groups = self.weight_scale.shape[1]
        if self.kernel == "float32":
            return nn.functional.linear(x_q - zero, self.real_weight()) * x_scale + self.bias
        total = torch.zeros(*x.shape[:-1], len(self.weight), dtype=torch.float64)
        for g, (part_x, part_w) in enumerate(zip(x_q.chunk(groups, -1), self.weight.chunk(groups, 1), strict=True)):
            total += accumulate(part_x, zero, part_w, self.kernel) * self.weight_scale[:, g].double()
        return (total * x_scale.double()).float() + self.bias

    def real_weight(self) -> Tensor:
        """Dequantized weights (out, K) float32."""
        group = self.weight.shape[1] // self.weight_scale.shape[1]
        return self.weight.float() * self.weight_scale.repeat_interleave(group, 1)


class IntegerPatchEmbed(nn.Module):
    """The patch convolution as the GEMM it is: 14x14 patches unfolded to rows of 588 values."""

    def __init__(self, linear: IntegerLinear, patch: int) -> None:
        super().__init__()
        self.linear, self.patch = linear, patch

    def forward(self, x: Tensor) -> Tensor:
        """Embed patches: (B, 3, H, W) -> (B, patches, D)."""
        rows = nn.functional.unfold(x, self.patch, stride=self.patch).transpose(1, 2)  # (B, patches, 3 * patch^2)
        return self.linear(rows)


class IntegerMix(nn.Module):
    """Level "all": softmax(q k^T) v with both products in integers, scale per head; see MatmulPlan."""

    query_scale: Tensor  # (H, 1, 1)
    key_scale: Tensor
    value_scale: Tensor

    def __init__(self, matmul: MatmulPlan, scale: float) -> None:
        super().__init__()
        self.scale, self.probability_scale = scale, matmul.probability_scale
        for part in ("query_scale", "key_scale", "value_scale"):
            self.register_buffer(part, torch.from_numpy(getattr(matmul, part))[:, None, None])

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of q, k, v (B, H, N, d) -> (B, N, H * d)."""
        q8, k8, v8 = (
            torch.round(t / s).clamp(-127, 127).double()
            for t, s in ((q, self.query_scale), (k, self.key_scale), (v, self.value_scale))
        )
        logits = (q8 @ k8.mT).float() * (self.query_scale * self.key_scale * self.scale)  # (B, H, N, N)
        numerators = torch.exp(logits - logits.amax(-1, keepdim=True))
        numerators += torch.from_numpy(dither(k.shape[-2], self.probability_scale))
        p8 = torch.round(numerators / self.probability_scale).clamp(0, 255).double()
        mixed = (p8 @ v8).float() * self.value_scale / p8.sum(-1, keepdim=True).float()
        return mixed.transpose(1, 2).flatten(2)


def simulate(plan: QuantPlan, *, kernel: Kernel = "int32", per_token: bool = False) -> VisionTransformer:
    """The plan as a module with the contract of `VisionTransformer.forward`.

    Args:
        plan: what to run.
        kernel: "pmaddubsw" shows what a saturating CPU would do to the portable file.
        per_token: run the activations as the fused ops do (own range per token) instead of the plan's static ranges.
    """
    return make_integer(restore(plan.config, plan.float_tensors), plan, kernel=kernel, per_token=per_token)


def make_integer(
    model: VisionTransformer, plan: QuantPlan, *, kernel: Kernel, per_token: bool = False
) -> VisionTransformer:
    """Replace, in place, what `plan` quantizes in its rewritten float model (which may go further than the plan)."""
    for name, gemm in plan.gemms.items():
        linear = IntegerLinear(gemm, kernel=kernel, per_token=per_token)
        if name == "patch_embed.proj":
            model.patch_embed = IntegerPatchEmbed(linear, plan.config.patch)  # type: ignore[assignment]
        else:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, linear)
    for name, matmul in plan.matmuls.items():
        attention = model.get_submodule(name)
        attention.products = IntegerMix(matmul, float(attention.scale))  # type: ignore[arg-type]
    return model.eval()
