"""Compares a Core ML package, read back from disk, with what it was written from: a plan number by number, or torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.artifact import INPUT_NAME
from edgekit.backends.coreml.builder import SHIFT, mil_name
from edgekit.backends.coreml.gemms import weight_scale
from edgekit.backends.coreml.package import read_function
from edgekit.backends.verification import refuse_differences, require_near
from edgekit.plan.heads import HEADS
from edgekit.plan.quant import GemmPlan, StaticInput, TokenGroupInput, TokenScaledInput
from edgekit.precision import FACTS, Precision

if TYPE_CHECKING:
    from edgekit.models.vit import VisionTransformer
    from edgekit.plan.quant import QuantPlan

_GEMMS = frozenset({"linear", "conv"})
_CONSTANTS = "constexpr_"


def verify_float(path: Path, model: VisionTransformer, precision: Precision) -> None:
    """Interpret a float package on one seeded image and compare it with torch.

    Raises:
        ExportError: not finite, or further away than the precision explains.
    """
    from edgekit.backends.coreml.interpreter.program import MilProgram

    program = MilProgram(path)
    require_near(model, precision, lambda pixels: program({INPUT_NAME: pixels}))


def verify_plan(path: Path, plan: QuantPlan, gains: Mapping[str, np.ndarray], precision: Precision) -> int:
    """Compare every integer, scale, zero point and bias of a package with `plan`; returns how many GEMMs were checked.

    Walks from each GEMM to its constants, so that a right number in the wrong place is found as well. Scales and
    biases stand in float16: the plan's, times the row's gain, rounded.

    Raises:
        ExportError: a number differs, a planned GEMM is missing, or something is quantized that the plan does not name.
    """
    gemms = {op.outputs[0].name: op for op in read_function(path).operations if op.op_type in _GEMMS}
    activations = not FACTS[precision].weight_only
    problems = []
    for gemm in plan.gemms.values():
        gain = gains.get(gemm.name, np.ones(1, np.float32))
        problems += list(_differences(gemms.pop(mil_name(gemm.name), None), gemm, gain, activations=activations))
    problems += [
        f"{name} is quantized and the plan keeps it float"
        for name, op in gemms.items()
        if _is_quantized(op) and not name.startswith(mil_name(HEADS))
    ]
    refuse_differences(path, problems)
    return len(plan.gemms)


def _differences(op: Any, gemm: GemmPlan, gain: np.ndarray, *, activations: bool) -> Iterator[str]:
    """Differences of one GEMM from its plan, a sentence each."""
    if op is None:
        yield f"{gemm.name} is missing"
        return
    maker = op.weight.op
    if not maker.op_type.startswith(_CONSTANTS):
        yield f"{gemm.name} has float weights"
        return
    blockwise = maker.op_type == "constexpr_blockwise_shift_scale"
    stored = maker.data if blockwise else maker.quantized_data
    if not np.array_equal(np.asarray(stored.val).astype(np.int8).reshape(gemm.weight.shape), gemm.weight):
        yield f"{gemm.name} has other integers"
    if not np.array_equal(np.ravel(maker.scale.val), weight_scale(gemm, gain).ravel()):
        yield f"{gemm.name} has other weight scales"
    offset = maker.offset if blockwise else maker.zero_point
    zero = 0 if gemm.weight_zero_point is None else gemm.weight_zero_point.ravel()
    if not np.all((0 if offset is None else np.ravel(offset.val)) == zero):
        yield f"{gemm.name} has other weight zero points"
    bias = np.float16((gemm.bias if activations else gemm.bias_dynamic) * gain)
    by_token = activations and isinstance(gemm.input, TokenScaledInput)
    if not np.array_equal(_bias_behind_peaks(op) if by_token else op.bias.val, bias):
        yield f"{gemm.name} has another bias"
    wanted: tuple[StaticInput, ...] = ()
    if activations:
        match gemm.input:
            case StaticInput():
                wanted = (gemm.input,)
            case TokenGroupInput(head=head, tail=tail):
                wanted = (head, tail)
            case TokenScaledInput(quotient):
                wanted = (quotient,)
    if quantizers(op) != [(np.float16(q.scale), q.zero_point - SHIFT) for q in wanted]:
        yield f"{gemm.name} has another input quantizer"


def _bias_behind_peaks(gemm: Any) -> Any:
    """Bias behind a product of quotients that its tokens' peaks multiply again; None where they do not."""
    quantized = gemm.x.op.input.op
    divided = quantized.input.op
    scaled = [op for op in gemm.outputs[0].child_ops if op.op_type == "mul"]
    if divided is None or divided.op_type != "real_div" or len(scaled) != 1 or scaled[0].y is not divided.y:
        return None
    added = [op for op in scaled[0].outputs[0].child_ops if op.op_type == "add"]
    return added[0].y.val if len(added) == 1 else None


def quantizers(gemm: Any) -> list[tuple[np.float16, int]]:
    """Scale and zero point of the quantizers in front of a GEMM: none, one, or those of two token groups."""
    maker = gemm.x.op
    found = []
    for var in maker.values if maker is not None and maker.op_type == "concat" else [gemm.x]:
        widened = var.op
        if widened is None or widened.op_type != "dequantize" or widened.input.op.op_type != "quantize":
            continue
        both = widened.input.op, widened
        if len({(float(op.scale.val), int(op.zero_point.val)) for op in both}) == 1:
            found.append((np.float16(widened.scale.val), int(widened.zero_point.val)))
    return found


def _is_quantized(gemm: Any) -> bool:
    return bool(gemm.weight.op is not None and gemm.weight.op.op_type.startswith(_CONSTANTS)) or bool(quantizers(gemm))
