"""Compares an ONNX file with what it was written from: a plan number by number, a float model by running."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper

from edgekit.artifact import INPUT_NAME
from edgekit.backends.onnx.runner import register_ops
from edgekit.backends.onnx.weights import accumulator_scale, int32_bias
from edgekit.backends.verification import refuse_differences, require_near
from edgekit.plan.heads import HEADS
from edgekit.plan.quant import (
    LEAST_PEAK,
    GemmPlan,
    MatmulPlan,
    PerTokenInput,
    QuantPlan,
    StaticInput,
    TokenGroupInput,
    TokenScaledInput,
    dither,
)
from edgekit.precision import Precision, Variant

if TYPE_CHECKING:
    from edgekit.graph.heads import Head
    from edgekit.models.vit import VisionTransformer


def verify_float(
    path: Path,
    model: VisionTransformer,
    precision: Precision,
    variant: Variant,
    heads: Mapping[str, Head] | None = None,
    sizes: Sequence[tuple[int, int]] = (),
) -> None:
    """Run a float file in ONNX Runtime on one seeded image and compare it with torch.

    `sizes` are (height, width) of the images in pixels, one image of each; without any it is that of the baked model.

    Raises:
        BackendMissing: it is a fused file and the op library is not here.
        ExportError: not finite, or further away than the precision explains.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    if variant == "fused":
        register_ops(options)
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(pixels: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {INPUT_NAME: pixels}), strict=True))

    require_near(model, precision, run, heads=heads, relative=False, sizes=sizes)


def verify_plan(path: Path, plan: QuantPlan, variant: Variant, tokens: int | None = None) -> int:
    """Compare every integer, scale, zero point and bias of a standard-op file with `plan`; returns the GEMMs checked.

    Walks from each GEMM node to its constants, so that a right number in the wrong place is found as well. `tokens` is
    the most that an image may have; None takes the number at the plan's own size.

    Raises:
        ExportError: a number differs, a planned GEMM is missing, or something is quantized that the plan does not name.
    """
    file = _File.read(path)
    problems = [problem for gemm in plan.gemms.values() for problem in _gemm_problems(file, gemm)]
    matmuls = plan.matmuls if variant != "dynamic" else {}
    tokens = tokens or plan.config.tokens(*plan.image_size)
    problems += [problem for matmul in matmuls.values() for problem in _matmul_problems(file, matmul, tokens)]
    problems += [problem for name in plan.kept_float for problem in _float_problems(file, plan, name)]
    problems += _unplanned(file, {*plan.gemms}, {*matmuls})
    refuse_differences(path, problems)
    return len(plan.gemms)


@dataclass(frozen=True)
class _File:
    """Look-ups over one graph."""

    nodes: dict[str, onnx.NodeProto]  # by name
    makers: dict[str, onnx.NodeProto]  # by output
    constants: dict[str, np.ndarray]

    @classmethod
    def read(cls, path: Path) -> _File:
        graph = onnx.load(path).graph
        return cls(
            {node.name: node for node in graph.node},
            {output: node for node in graph.node for output in node.output},
            {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer},
        )

    def constant(self, node: onnx.NodeProto, index: int) -> np.ndarray | None:
        """The initializer at that input, if it is one."""
        return self.constants.get(node.input[index]) if index < len(node.input) else None

    def maker(self, node: onnx.NodeProto, index: int, op_type: str) -> onnx.NodeProto | None:
        """The node behind that input, if it is of that type."""
        found = self.makers.get(node.input[index]) if index < len(node.input) else None
        return found if found is not None and found.op_type == op_type else None


def _gemm_problems(file: _File, gemm: GemmPlan) -> Iterator[str]:
    """Differences of one GEMM from its plan, a sentence each."""
    name = gemm.name
    if f"{name}/MatMulInteger" in file.nodes:
        node = file.nodes[f"{name}/MatMulInteger"]
        yield from _weight_problems(name, gemm.weight, file.constant(node, 1), file.constant(node, 3))
        yield from _same(f"{name} weight scale", gemm.weight_scale[:, 0], _second(file, f"{name}.scale/Mul"))
        bias = (
            gemm.bias
            if isinstance(gemm.input, PerTokenInput) and f"{name}.input/Round" in file.nodes
            else gemm.bias_dynamic
        )
        yield from _same(f"{name} bias", bias, _second(file, f"{name}/Add"))
    elif f"{name}/MatMul" in file.nodes:
        yield from _blocked_problems(file, gemm, file.nodes[f"{name}/MatMul"])
    else:
        match gemm.input:
            case StaticInput():
                parts: tuple[tuple[str, StaticInput], ...] = (("", gemm.input),)
            case TokenGroupInput(head=head, tail=tail):
                parts = ((".head", head), (".tail", tail))
            case TokenScaledInput(quotient):
                parts = (("", quotient),)
                yield from _peak_problems(file, name)
            case PerTokenInput():
                parts = ()
                yield f"{name} has no MatMulInteger"
        for part, quantizer in parts:
            yield from _static_problems(file, gemm, quantizer, part)


def _peak_problems(file: _File, name: str) -> Iterator[str]:
    """Faults of the division by the token's peak before quantization, or of the multiplication behind the product."""
    divided, restored = file.nodes.get(f"{name}.quotient/Mul"), file.nodes.get(f"{name}.product/Mul")
    inverse = file.maker(divided, 1, "Reciprocal") if divided else None
    peak = file.maker(inverse, 0, "Max") if inverse else None
    reduced = file.maker(peak, 0, "ReduceMax") if peak else None
    size = file.maker(reduced, 0, "Abs") if reduced else None
    if divided is None or peak is None or size is None or size.input[0] != divided.input[0]:
        yield f"{name} does not divide its tokens by their peaks"
    elif restored is None or restored.input[1] != peak.output[0]:
        yield f"{name} does not multiply its product by the tokens' peaks"
    else:
        yield from _same(f"{name} least peak", np.float32(LEAST_PEAK), file.constant(peak, 1))


def _static_problems(file: _File, gemm: GemmPlan, quantizer: StaticInput, part: str) -> Iterator[str]:
    name = gemm.name + part
    node = file.nodes.get(f"{name}/Gemm")
    input_ = file.maker(node, 0, "DequantizeLinear") if node else None
    weight = file.maker(node, 1, "DequantizeLinear") if node else None
    quantize = file.maker(input_, 0, "QuantizeLinear") if input_ else None
    if node is None or input_ is None or weight is None or quantize is None:
        yield f"{name} is not a Gemm over quantized inputs"
        return
    for step in (quantize, input_):
        yield from _same(f"{name} input scale", np.float32(quantizer.scale), file.constant(step, 1))
        yield from _same(f"{name} input zero point", np.uint8(quantizer.zero_point), file.constant(step, 2))
    stored = file.maker(weight, 0, "Reshape") or weight  # token groups: same shape, another tensor
    yield from _weight_problems(name, gemm.weight, file.constant(stored, 0), file.constant(weight, 2))
    yield from _same(f"{name} weight scale", gemm.weight_scale[:, 0], file.constant(weight, 1))
    steps = None if isinstance(gemm.input, TokenScaledInput) else int32_bias(gemm, quantizer)
    bias = file.maker(node, 2, "DequantizeLinear")
    if steps is None:
        yield from _same(f"{name} bias", gemm.bias, _second(file, f"{name}/Add"))
    elif bias is None:
        yield f"{name} has no bias"
    else:
        yield from _same(f"{name} bias", steps, file.constant(bias, 0))
        yield from _same(f"{name} bias scale", accumulator_scale(gemm, quantizer), file.constant(bias, 1))


def _blocked_problems(file: _File, gemm: GemmPlan, node: onnx.NodeProto) -> Iterator[str]:
    weight = file.maker(node, 1, "DequantizeLinear")
    if weight is None:
        yield f"{gemm.name} has float weights"
        return
    # of the file (blocks, out), perhaps finer than the plan's groups
    scale, zero = (_every_input(file.constant(weight, i), gemm.weight.shape[1]) for i in (1, 2))
    yield from _weight_problems(gemm.name, gemm.centered_int8(), file.constant(weight, 0), zero)
    yield from _same(f"{gemm.name} weight scale", np.repeat(gemm.weight_scale, gemm.group_size, axis=1).T, scale)
    yield from _same(f"{gemm.name} bias", gemm.bias_dynamic, _second(file, f"{gemm.name}/Add"))


def _every_input(blocks: np.ndarray | None, width: int) -> np.ndarray | None:
    """Repeat values per block for every input channel: (blocks, out) -> (in, out)."""
    return None if blocks is None else np.repeat(blocks, width // len(blocks), axis=0)


def _weight_problems(
    name: str, expected: np.ndarray, stored: np.ndarray | None, zero: np.ndarray | None
) -> Iterator[str]:
    if stored is not None:
        stored = stored.astype(np.int16) - (0 if zero is None else zero.astype(np.int16))
    yield from _same(f"{name} weights", expected.T, stored)


def _matmul_problems(file: _File, matmul: MatmulPlan, tokens: int) -> Iterator[str]:
    """Scales of q, k, v and of the softmax numerators of one attention."""
    roles = (
        ("q", matmul.query_scale),
        ("k", matmul.key_scale),
        ("v", matmul.value_scale),
        ("numerators", np.float32(matmul.probability_scale)),
    )
    for part, scale in roles:
        yield from _same(f"{matmul.name} {part} scale", scale, _second(file, f"{matmul.name}.{part}/QuantizeLinear"))
    offsets = dither(tokens, matmul.probability_scale)
    yield from _same(f"{matmul.name} dither", offsets, file.constants.get(f"{matmul.name}.dither"))
    added = file.nodes.get(f"{matmul.name}.numerators/Add")
    if added is None or added.input[1] not in (f"{matmul.name}.dither", f"{matmul.name}.dither/Slice"):
        yield f"{matmul.name} does not add its dither"
    for product in ("logits", "mix"):
        if f"{matmul.name}.{product}/MatMulInteger" not in file.nodes:
            yield f"{matmul.name} {product} is not an integer product"


def _float_problems(file: _File, plan: QuantPlan, name: str) -> Iterator[str]:
    """A GEMM that stays float must have the rewritten model's weights."""
    node = file.nodes.get(f"{name}/MatMul") or file.nodes.get(f"{name}/Conv")
    weight = plan.float_tensors[f"{name}.weight"]
    yield from _same(
        f"{name} float weights", weight.T if weight.ndim == 2 else weight, file.constant(node, 1) if node else None
    )


def _unplanned(file: _File, gemms: set[str], matmuls: set[str]) -> Iterator[str]:
    """Quantizers that belong to no GEMM or attention of the plan, nor to a head, which has a plan of its own."""
    for name, node in file.nodes.items():
        if name.startswith(HEADS):
            continue
        owner = name.rpartition("/")[0]
        owners = {
            owner.removesuffix(suffix)
            for suffix in (".input", ".head.input", ".tail.input", ".q", ".k", ".v", ".numerators")
        }
        if node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear") and not owners & (gemms | matmuls):
            yield f"{owner.removesuffix('.input')} is quantized but not in the plan"


def _second(file: _File, name: str) -> np.ndarray | None:
    """The constant at the second input of a node."""
    node = file.nodes.get(name)
    return file.constant(node, 1) if node is not None else None


def _same(what: str, expected: np.ndarray | np.generic, actual: np.ndarray | None) -> Iterator[str]:
    if actual is None:
        yield f"{what} missing"
    elif not np.array_equal(expected, actual):
        yield f"{what} differ" if what.endswith("s") else f"{what} differs"
