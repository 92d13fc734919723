"""Reads an IR back and compares every integer, scale, range and bias with the plan it was written from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov

from edgekit.backends.openvino.builder import LEVELS, QUANTIZER
from edgekit.backends.verification import refuse_differences
from edgekit.plan.quant import LEAST_PEAK, GemmPlan, MatmulPlan, StaticInput, TokenGroupInput, TokenScaledInput, dither
from edgekit.precision import Precision

if TYPE_CHECKING:
    from edgekit.plan.quant import QuantPlan


def verify_plan(path: Path, plan: QuantPlan, precision: Precision, tokens: int | None = None) -> int:
    """Compare the IR at `path` with `plan`; returns how many GEMMs were checked.

    `tokens` is the most that an image may have; None takes the number at the plan's own size.

    Raises:
        ExportError: a constant, a quantizer range or its levels differ, or a planned GEMM is not in the file.
    """
    nodes = {node.get_friendly_name(): node for node in ov.Core().read_model(path).get_ordered_ops()}
    problems = [problem for gemm in plan.gemms.values() for problem in _differences(gemm, nodes, precision)]
    if precision != "w8":
        tokens = tokens or plan.config.tokens(*plan.image_size)
        problems += [p for matmul in plan.matmuls.values() for p in _product_differences(matmul, tokens, nodes)]
    refuse_differences(path, problems)
    return len(plan.gemms)


def _differences(gemm: GemmPlan, nodes: dict[str, ov.Node], precision: Precision) -> list[str]:
    """Differences of one GEMM from its plan, a sentence each."""
    name = gemm.name
    expected = {
        f"{name}.weight": gemm.weight,
        f"{name}.weight_scale": gemm.weight_scale,
        f"{name}.bias": gemm.bias_dynamic if precision == "w8" else gemm.bias,
    }
    quantizers: dict[str, StaticInput] = {}
    if precision != "w8":
        match gemm.input:
            case StaticInput():
                quantizers[name] = gemm.input
            case TokenGroupInput(head=head, tail=tail):
                quantizers |= {f"{name}.head": head, name: tail}
            case TokenScaledInput(quotient):
                quantizers[name] = quotient
                expected[f"{name}.least_peak"] = np.array(LEAST_PEAK, np.float32)
    problems: list[str] = []
    for prefix, quantizer in quantizers.items():
        low, high = quantizer.ends
        expected |= {f"{prefix}.input_low": np.array(low), f"{prefix}.input_high": np.array(high)}
        node = nodes.get(f"{prefix}{QUANTIZER}")
        if node is None or node.get_attributes()["levels"] != LEVELS:
            problems.append(f"{prefix} has no quantizer of {LEVELS} levels")
    return problems + _wrong_constants(expected, nodes)


def _product_differences(matmul: MatmulPlan, tokens: int, nodes: dict[str, ov.Node]) -> list[str]:
    """Differences of the attention products of one block from their plan."""
    scales = {"q": matmul.query_scale, "k": matmul.key_scale, "v": matmul.value_scale}
    expected = {f"{matmul.name}.{part}.scale": scale.astype(np.float32) for part, scale in scales.items()}
    expected[f"{matmul.name}.dither"] = dither(tokens, matmul.probability_scale)
    expected[f"{matmul.name}.p_high"] = np.array((LEVELS - 1) * matmul.probability_scale, np.float32)
    return _wrong_constants(expected, nodes)


def _wrong_constants(expected: dict[str, np.ndarray], nodes: dict[str, ov.Node]) -> list[str]:
    problems = []
    for key, value in expected.items():
        node = nodes.get(key)
        if node is None or node.get_type_name() != "Constant":
            problems.append(f"constant {key} is missing")
        elif node.data.dtype != value.dtype or not np.array_equal(node.data.ravel(), value.ravel()):
            problems.append(f"{key} differs")
    return problems
