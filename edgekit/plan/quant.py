"""The QuantPlan: the single numeric truth that the simulator and every backend read, and none of them changes.

A plan holds the rewritten float model (surgery applied, same function as the checkpoint) and, for each quantized GEMM,
integer weights, weight scales and the quantizer of its input. y = x @ W^T + b is computed in integers as

    acc[n, o] = sum_k (x_q[n, k] - z_n) * w_q[o, k]              exact in int32 (zero point z as uint8)
    y[n, o]   = acc[n, o] * (x_scale_n * w_scale[o]) + bias[o]   in float32

with x_q = clamp(round_half_even(x / x_scale) + z, 0, 255). 8-bit weights are
symmetric, w_q in [-2^(bits-1)+1, 2^(bits-1)-1]; groups of 4-bit weights may have a zero point each.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from typing_extensions import override

from edgekit.artifact import MOST_SIDE
from edgekit.plan.storage import StoredPlan, Tensors

if TYPE_CHECKING:
    from edgekit.models.config import ViTConfig

LEAST_PEAK = 2.0**-12  # of a token in `TokenScaledInput`: its reciprocal is finite in float16 too


@dataclass(frozen=True)
class StaticInput:
    """One uint8 scale and zero point for the whole tensor, fixed at calibration: real = (q - zero_point) * scale."""

    scale: float
    zero_point: int
    kind: Literal["static"] = "static"

    @property
    def ends(self) -> tuple[np.float32, np.float32]:
        """The real values that q = 0 and q = 255 stand for."""
        scale = np.float64(np.float32(self.scale))
        return np.float32(-self.zero_point * scale), np.float32((255 - self.zero_point) * scale)

    def require_sound(self, name: str) -> None:
        """Raises ValueError unless the scale is a positive number and the zero point one of 8 bits."""
        if not (np.isfinite(self.scale) and self.scale > 0 and 0 <= self.zero_point <= 255):
            raise ValueError(f"the input of {name} has scale {self.scale} and zero point {self.zero_point}")


@dataclass(frozen=True)
class TokenGroupInput:
    """Two static uint8 quantizers: tokens [0, split) (CLS and registers) and tokens [split, N) (patches).

    `head` quantizes the first token group, `tail` the second; neither has to do with attention or task heads.
    """

    split: int
    head: StaticInput
    tail: StaticInput
    kind: Literal["token_groups"] = "token_groups"


@dataclass(frozen=True)
class TokenScaledInput:
    """Each token is divided by its peak, and the quotients in [-1, 1] have one static quantizer.

    peak_n = max(max_k |x[n, k]|, LEAST_PEAK), and x_scale_n = quotient.scale * peak_n. Tokens of very different size
    (behind attention, behind GELU) get a grid each, and yet a runtime needs static integer GEMMs only: x is multiplied
    by 1 / peak in float before it is quantized, the product by peak behind it.
    """

    quotient: StaticInput
    kind: Literal["token_scaled"] = "token_scaled"


@dataclass(frozen=True)
class PerTokenInput:
    """Each token's own range, taken at run time: uint8, scale = (max - min) / 255 with 0 inside the range."""

    kind: Literal["per_token"] = "per_token"


@dataclass(frozen=True)
class FloatInput:
    """Not quantized: the integers are weights alone, for runtimes that widen them and multiply in float."""

    kind: Literal["float"] = "float"


InputQuantizer = StaticInput | TokenGroupInput | TokenScaledInput | PerTokenInput | FloatInput


@dataclass(frozen=True)
class GemmPlan:
    """One quantized GEMM.

    `weight` int8 (out, in); `weight_scale` float32 (out, groups), groups = 1 for a scale per output channel, else
    in / group_size; `weight_zero_point` int8 (out, groups) is the zero point per group, None = symmetric.
    `bias` float32 (out,) belongs to the static input quantizer (bias correction included); `bias_dynamic` is the
    uncorrected one, for runtimes that quantize activations per token.
    The patch embedding is stored as a GEMM too: (out, 3 * patch * patch) in the convolution's own element order.
    """

    name: str  # module path: "blocks.0.attn.qkv", "patch_embed.proj"
    weight: np.ndarray
    weight_scale: np.ndarray
    weight_bits: float
    bias: np.ndarray
    bias_dynamic: np.ndarray
    input: InputQuantizer
    weight_zero_point: np.ndarray | None = None

    @property
    def group_size(self) -> int:
        """Input channels that share a weight scale."""
        return int(self.weight.shape[1]) // int(self.weight_scale.shape[1])

    def zero_points(self) -> np.ndarray:
        """Zero points broadcast to the weight's shape: int8 (out, in), or (1, 1) of a symmetric weight."""
        if self.weight_zero_point is None:
            return np.zeros((1, 1), np.int8)
        return np.repeat(self.weight_zero_point, self.group_size, axis=1)

    def centered_int8(self) -> np.ndarray:
        """`weight - weight_zero_point`, not yet scaled: int8 (out, in)."""
        return self.weight - self.zero_points()

    def dequantized(self) -> np.ndarray:
        """Float32 weights (out, in) that the integers stand for."""
        scale = np.repeat(self.weight_scale, self.group_size, axis=1)
        return (self.centered_int8().astype(np.float32) * scale).astype(np.float32)


@dataclass(frozen=True)
class MatmulPlan:
    """Level "all": the attention products of one block. Scales per tensor and head, symmetric int8 for q, k, v.

    `probability_scale`: softmax numerators exp(s - max) lie in [0, 1] and are rounded to uint8 with scale 1/255, each
    column after its `dither`; the row sum of the *rounded* numerators divides afterwards.
    """

    name: str  # "blocks.0.attn"
    query_scale: np.ndarray  # (H,)
    key_scale: np.ndarray  # (H,)
    value_scale: np.ndarray  # (H,)
    probability_scale: float = 1 / 255


def dither(tokens: int, scale: float) -> np.ndarray:
    """Dither of the softmax numerators, an offset per column before they are rounded: (tokens,) float32.

    Evenly spread over one step: frac(j * golden ratio) - 1/2, in units of `scale`. Rounding to nearest would lose the
    many small numerators of a row that has a large one, and with them up to a fifth of its mass; with an offset per
    column so many of them are rounded up that the mass stays. Measured: 30.6 dB become 43.
    """
    steps = (np.arange(tokens) * ((5**0.5 - 1) / 2)) % 1 - 0.5
    return (steps * scale).astype(np.float32)


@dataclass(frozen=True)
class QuantPlan(StoredPlan):
    """The rewritten model and its quantizers; `float_tensors` has the keys of the model's state dict after surgery."""

    SCHEMA: ClassVar = "edgekit.plan/1"
    TITLE: ClassVar = "quantization plan"
    COMMAND: ClassVar = "quantize"

    config: ViTConfig
    image_size: tuple[int, int]
    float_tensors: dict[str, np.ndarray]
    gemms: dict[str, GemmPlan]
    matmuls: dict[str, MatmulPlan] = field(default_factory=dict)
    kept_float: dict[str, str] = field(default_factory=dict)  # GEMM name -> reason it is not quantized
    provenance: dict[str, Any] = field(default_factory=dict)  # recipe digest, calibration digest, steps and their gain

    def mixed_precision_notes(self) -> list[str]:
        """Mixed precision in words: a sentence for each GEMM that is more precise than the others."""
        kept = [f"{name} stays float: {reason}" for name, reason in self.kept_float.items()]
        return kept + [f"{name} has 8 bits: {reason}" for name, reason in self.promoted.items()]

    @property
    @override
    def key(self) -> str:
        return str(self.provenance.get("key", ""))

    @property
    def promoted(self) -> dict[str, str]:
        """GEMM name -> reason it has 8 bits where others have 4."""
        return dict(self.provenance.get("promoted", {}))

    @override
    def parts(self) -> tuple[dict[str, Any], Tensors]:
        tensors = {f"float/{key}": value for key, value in self.float_tensors.items()}
        meta: dict[str, Any] = {
            "config": asdict(self.config),
            "image_size": self.image_size,
            "gemms": {},
            "matmuls": {},
            "kept_float": self.kept_float,
            "provenance": self.provenance,
        }
        for name, gemm in self.gemms.items():
            for part in ("weight", "weight_scale", "bias", "bias_dynamic"):
                tensors[f"gemm/{name}/{part}"] = getattr(gemm, part)
            if gemm.weight_zero_point is not None:
                tensors[f"gemm/{name}/weight_zero"] = gemm.weight_zero_point
            meta["gemms"][name] = {"weight_bits": gemm.weight_bits, "input": asdict(gemm.input)}
        for name, matmul in self.matmuls.items():
            for part in ("query_scale", "key_scale", "value_scale"):
                tensors[f"matmul/{name}/{part}"] = getattr(matmul, part)
            meta["matmuls"][name] = {"probability_scale": matmul.probability_scale}
        return meta, tensors

    @override
    @classmethod
    def of_parts(cls, meta: dict[str, Any], tensors: Tensors) -> Self:
        from edgekit.models.config import config_of

        return cls(
            config=config_of(meta["config"]),
            image_size=tuple(meta["image_size"]),
            float_tensors={k.removeprefix("float/"): v for k, v in tensors.items() if k.startswith("float/")},
            gemms={
                name: GemmPlan(
                    name,
                    tensors[f"gemm/{name}/weight"],
                    tensors[f"gemm/{name}/weight_scale"],
                    entry["weight_bits"],
                    tensors[f"gemm/{name}/bias"],
                    tensors[f"gemm/{name}/bias_dynamic"],
                    _input_from(entry["input"]),
                    tensors.get(f"gemm/{name}/weight_zero"),
                )
                for name, entry in meta["gemms"].items()
            },
            matmuls={
                name: MatmulPlan(
                    name,
                    tensors[f"matmul/{name}/query_scale"],
                    tensors[f"matmul/{name}/key_scale"],
                    tensors[f"matmul/{name}/value_scale"],
                    entry["probability_scale"],
                )
                for name, entry in meta["matmuls"].items()
            },
            kept_float=meta["kept_float"],
            provenance=meta["provenance"],
        )

    @override
    @classmethod
    def key_of(cls, meta: dict[str, Any]) -> str:
        return str(meta["provenance"]["key"])

    @override
    def require_sound(self) -> None:
        sides = self.image_size
        if len(sides) != 2 or not all(isinstance(side, int) and 1 <= side <= MOST_SIDE for side in sides):
            raise ValueError(f"it is for images of {str(sides)[:80]} pixels")
        if not (isinstance(self.kept_float, dict) and isinstance(self.provenance, dict)):
            raise ValueError("its notes are no objects")
        for name, tensor in self.float_tensors.items():
            _require_finite(name, tensor)
        for gemm in self.gemms.values():
            _require_sound_gemm(gemm)
        for name, matmul in self.matmuls.items():
            for part in (matmul.query_scale, matmul.key_scale, matmul.value_scale):
                _require_finite(name, part)
            if not (isinstance(matmul.probability_scale, float) and 0 < matmul.probability_scale <= 1):
                raise ValueError(f"the probabilities of {name} have scale {str(matmul.probability_scale)[:40]}")


def _require_sound_gemm(gemm: GemmPlan) -> None:
    name, weight, scale, zero = gemm.name, gemm.weight, gemm.weight_scale, gemm.weight_zero_point
    if weight.dtype != np.int8 or weight.ndim != 2 or not weight.size:
        raise ValueError(f"the weight of {name} is {weight.dtype} {weight.shape}")
    if scale.ndim != 2 or len(scale) != len(weight) or not scale.shape[1] or weight.shape[1] % scale.shape[1]:
        raise ValueError(f"the weight scales of {name} have shape {scale.shape}")
    if zero is not None and (zero.dtype != np.int8 or zero.shape != scale.shape):
        raise ValueError(f"the zero points of {name} are {zero.dtype} {zero.shape}")
    for part in (scale, gemm.bias, gemm.bias_dynamic):
        _require_finite(name, part)
    if gemm.bias.shape != weight.shape[:1] or gemm.bias_dynamic.shape != weight.shape[:1]:
        raise ValueError(f"the biases of {name} have shapes {gemm.bias.shape} and {gemm.bias_dynamic.shape}")
    if not (isinstance(gemm.weight_bits, int | float) and 2 <= gemm.weight_bits <= 8):
        raise ValueError(f"the weights of {name} have {str(gemm.weight_bits)[:40]} bits")
    for grid in _grids(gemm.input):
        grid.require_sound(name)


def _require_finite(name: str, values: np.ndarray) -> None:
    if values.dtype.kind != "f" or not np.isfinite(values).all():
        raise ValueError(f"{name} holds NaN or infinite values, or no floats ({values.dtype})")


def _grids(quantizer: InputQuantizer) -> tuple[StaticInput, ...]:
    """The static quantizers in one of any kind."""
    match quantizer:
        case StaticInput():
            return (quantizer,)
        case TokenGroupInput():
            return (quantizer.head, quantizer.tail)
        case TokenScaledInput():
            return (quantizer.quotient,)
        case _:
            return ()


def _input_from(entry: dict[str, Any]) -> InputQuantizer:
    match entry["kind"]:
        case "static":
            return StaticInput(entry["scale"], entry["zero_point"])
        case "token_groups":
            return TokenGroupInput(entry["split"], _static(entry["head"]), _static(entry["tail"]))
        case "token_scaled":
            return TokenScaledInput(_static(entry["quotient"]))
        case "per_token":
            return PerTokenInput()
        case "float":
            return FloatInput()
        case other:
            raise ValueError(f"it names an input quantizer {other!r} that this edgekit does not know")


def _static(entry: dict[str, Any]) -> StaticInput:
    return StaticInput(entry["scale"], entry["zero_point"])


def gemm_names(config: ViTConfig, *, patch_embed: bool = True) -> list[str]:
    """Names of all weight GEMMs in the order they run."""
    parts = ["attn.qkv", "attn.proj", *(["mlp.fc1", "mlp.fc2"] if config.ffn == "mlp" else ["mlp.w12", "mlp.w3"])]
    names = [f"blocks.{i}.{part}" for i in range(config.depth) for part in parts]
    return ["patch_embed.proj", *names] if patch_embed else names
