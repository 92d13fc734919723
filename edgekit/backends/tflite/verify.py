"""Compares a TFLite file with what it was written from: a plan number by number, a float model by running."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from edgekit.artifact import OUTPUT_NAMES
from edgekit.backends.tflite.builder import channels_last
from edgekit.backends.tflite.gemms import as_hybrid, range_channels, unscaled_bias
from edgekit.backends.tflite.runner import without_greeting
from edgekit.backends.verification import refuse_differences, require_near
from edgekit.plan.heads import HEADS
from edgekit.plan.quant import GemmPlan, StaticInput, TokenGroupInput
from edgekit.precision import Precision

if TYPE_CHECKING:
    from edgekit.models.vit import VisionTransformer
    from edgekit.plan.quant import QuantPlan

_OPERATORS = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
_DTYPES = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT16: np.float16,
    schema.TensorType.INT8: np.int8,
}
_INTEGERS = {schema.TensorType.INT8, schema.TensorType.INT4}


def verify_float(path: Path, model: VisionTransformer, precision: Precision) -> None:
    """Run a float file on one seeded image and compare it with torch.

    Raises:
        ExportError: not finite, or further away than the precision explains.
    """
    with without_greeting():
        interpreter = Interpreter(model_path=str(path))
        interpreter.allocate_tensors()

    def run(pixels: np.ndarray) -> dict[str, np.ndarray]:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels.transpose(0, 2, 3, 1))
        interpreter.invoke()
        return {OUTPUT_NAMES[0]: interpreter.get_tensor(interpreter.get_output_details()[0]["index"])}

    require_near(model, precision, run)


def verify_plan(path: Path, plan: QuantPlan, precision: Precision) -> int:
    """Compare every integer, scale, zero point and bias of a file with `plan`; returns how many GEMMs were checked.

    Walks from each GEMM operator to its constants, so that a right number in the wrong place is found as well.

    Raises:
        ExportError: a number differs, a planned GEMM is missing, or something is quantized that the plan does not name.
    """
    file = _File(path.read_bytes())
    activations = precision != "w8"
    problems = [p for gemm in plan.gemms.values() for p in _differences(file, gemm, activations=activations)]
    unplanned = sorted(file.quantized() - set(plan.gemms))
    problems += [f"{name} is quantized and the plan keeps it float" for name in unplanned]
    refuse_differences(path, problems)
    return len(plan.gemms)


class _File:
    """Look-ups over the operators of one file, by the names of their outputs."""

    def __init__(self, content: bytes) -> None:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        graph = model.subgraphs[0]
        self.buffers, self.tensors = model.buffers, graph.tensors
        self.kinds = [_OPERATORS[code.builtinCode] for code in model.operatorCodes]
        self.producers: dict[int, Any] = {int(output): node for node in graph.operators for output in node.outputs}
        self.named = {self.tensors[int(node.outputs[0])].name.decode(): node for node in graph.operators}

    def kind(self, node: Any) -> str:
        """Name of the operator."""
        return self.kinds[node.opcodeIndex]

    def behind(self, index: int, kind: str) -> Any | None:
        """The operator that makes that tensor, if it is of that kind."""
        node = self.producers.get(int(index))
        return node if node is not None and self.kind(node) == kind else None

    def constant(self, index: int) -> np.ndarray | None:
        """The stored values of a tensor, if it has any."""
        tensor = self.tensors[int(index)]
        data = self.buffers[tensor.buffer].data
        if data is not None and tensor.type == schema.TensorType.INT4:
            pairs = np.asarray(data, np.uint8)
            nibbles = np.stack([pairs & 0xF, pairs >> 4], axis=-1).astype(np.int8)
            return np.where(nibbles > 7, nibbles - 16, nibbles).astype(np.int8).reshape(tensor.shape)
        if data is None or tensor.type not in _DTYPES:
            return None
        return np.asarray(data, np.uint8).view(_DTYPES[tensor.type]).reshape(tensor.shape)

    def weight(self, node: Any) -> int:
        """Index of a GEMM's weights as they are stored."""
        dequantize = self.behind(node.inputs[1], "DEQUANTIZE")
        return int(node.inputs[1] if dequantize is None else dequantize.inputs[0])

    def scales(self, index: int) -> np.ndarray | None:
        """Scales (out, groups) of stored weights that are symmetric along their first axis; None for any others."""
        grid = self.tensors[index].quantization
        if grid.detailsType == schema.QuantizationDetails.BlockwiseQuantization:
            return self.constant(grid.details.scales) if grid.details.zeroPoints == -1 else None
        if np.any(grid.zeroPoint) or grid.quantizedDimension:
            return None
        return np.float32(grid.scale).reshape(-1, 1)

    def factor(self, node: Any) -> np.ndarray | None:
        """Weight scales (out, 1) that a MUL right behind a GEMM brings in; None where there is none."""
        name = self.tensors[int(node.outputs[0])].name.decode()
        behind = self.named.get(f"{name}/scaled")
        if behind is None or self.kind(behind) != "MUL" or behind.inputs[0] != node.outputs[0]:
            return None
        factor = self.constant(behind.inputs[1])
        return None if factor is None else factor.reshape(-1, 1)

    def quantized(self) -> set[str]:
        """Names of the backbone's GEMMs with integer weights."""
        return {
            name
            for name, node in self.named.items()
            if self.kind(node) in {"FULLY_CONNECTED", "CONV_2D"}
            and not name.startswith(HEADS)
            and self.tensors[self.weight(node)].type in _INTEGERS
        }


def _differences(file: _File, gemm: GemmPlan, *, activations: bool) -> Iterator[str]:
    """The differences between file and plan for one GEMM, one sentence each."""
    node = file.named.get(gemm.name)
    if node is None or file.kind(node) not in {"FULLY_CONNECTED", "CONV_2D"}:
        yield f"{gemm.name} is missing"
        return
    index = file.weight(node)
    weight, bias, scale = file.constant(index), file.constant(node.inputs[2]), file.scales(index)
    gemm = as_hybrid(gemm)
    bias_wanted = gemm.bias if activations else gemm.bias_dynamic
    if scale is not None and (behind := file.factor(node)) is not None:
        scale, bias_wanted = scale * behind, unscaled_bias(gemm)
    if gemm.name == "patch_embed.proj":
        patch = plain_patch(gemm.weight.shape[1])
        expected = channels_last(gemm.weight.reshape(-1, 3, patch, patch)).reshape(len(gemm.weight), -1)
    else:
        expected = gemm.weight
    wanted: tuple[StaticInput, ...] = ()
    if activations:
        match gemm.input:
            case StaticInput():
                wanted = (gemm.input,)
            case TokenGroupInput(head=head, tail=tail):
                wanted = (head, tail)
    appended, scales = range_channels(gemm) if wanted else 0, gemm.weight_scale
    if gemm.weight_scale.shape[1] > 1:  # float16 scales, and those of a block of zeros for the range channels
        scales = np.pad(scales, ((0, 0), (0, appended // gemm.group_size)), constant_values=1).astype(np.float16)
    expected = np.pad(expected, ((0, 0), (0, appended)))
    if weight is None or weight.dtype != np.int8 or not np.array_equal(weight.reshape(len(weight), -1), expected):
        yield f"{gemm.name} has other integers"
    elif scale is None or not np.array_equal(scale, scales):
        yield f"{gemm.name} has other weight scales"
    if bias is None or not np.array_equal(bias, bias_wanted):
        yield f"{gemm.name} has another bias"
    if _ranges(file, node.inputs[0], range_channels(gemm)) != [quantizer.ends for quantizer in wanted]:
        yield f"{gemm.name} has another input quantizer"


def _ranges(file: _File, index: int, channels: int) -> list[tuple[np.float32, np.float32]]:
    """Ranges that the input of a GEMM is pinned to by its last `channels`: none, one, or those of two token groups."""
    joined = file.behind(index, "CONCATENATION")
    found = []
    for part in [index] if joined is None else joined.inputs:
        clipped = file.behind(part, "MINIMUM")
        raised = clipped and file.behind(clipped.inputs[0], "MAXIMUM")
        if clipped is None or raised is None:
            continue
        floor, ceiling = file.constant(raised.inputs[1]), file.constant(clipped.inputs[1])
        if floor is None or ceiling is None:
            continue
        qmin, qmax = floor[-channels], ceiling[1 - channels]
        others = np.unique(floor[:-channels]), np.unique(ceiling[:-channels]), ceiling[-channels], floor[1 - channels]
        zeros = not np.any(floor[2 - channels :]) and not np.any(ceiling[2 - channels :])
        if others == (qmin, qmax, qmin, qmax) and zeros:
            found.append((qmin, qmax))
    return found


def plain_patch(columns: int) -> int:
    """Side of a square RGB patch of that many values."""
    return round((columns / 3) ** 0.5)
