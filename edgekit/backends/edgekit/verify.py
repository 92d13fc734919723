"""Compares a `.edgekit` file with what it was written from: a plan number by number, a float model by running."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.backends.base import refuse_differences
from edgekit.backends.edgekit.container import expected_tensors
from edgekit.errors import DataError, ExportError
from edgekit.native.model import NativeModel
from edgekit.plan.quant import QuantPlan

if TYPE_CHECKING:
    from edgekit.graph.heads import Head
    from edgekit.models.vit import DinoV2

FP32_TOLERANCE = 1e-4  # largest absolute difference of a float32 file from torch
HEAD_TOLERANCE = 1e-3  # of a head's output, where that is larger than 1 relative to it


def verify_plan(path: Path, plan: QuantPlan) -> int:
    """Compare every integer, scale, bias and float tensor of the backbone with `plan`; returns the tensors compared.

    Raises:
        ExportError: a tensor differs or is missing.
    """
    from safetensors import safe_open

    wanted = dict(expected_tensors(plan))
    with safe_open(path, framework="numpy") as file:
        held = set(file.keys())
        problems = [f"{name} is missing" for name in wanted if name not in held]
        for name in held & wanted.keys():
            stored = file.get_tensor(name)
            if stored.dtype != wanted[name].dtype or not np.array_equal(stored, wanted[name]):
                problems.append(f"{name} differs")
    refuse_differences(path, sorted(problems))
    return len(wanted)


def verify_golden(path: Path) -> float:
    """Run the file's own self-test; returns the cosine with the float model.

    Raises:
        ExportError: the library refuses the file, or the cosine is too low.
    """
    try:
        return NativeModel(path).check()
    except DataError as error:
        raise ExportError(f"{path.name} does not pass its own test", why=error.why or error.what) from None


def verify_float(path: Path, model: DinoV2, heads: Mapping[str, Head]) -> float:
    """Run a float file on one seeded image and compare with torch; returns the largest difference.

    Raises:
        ExportError: not finite, or further away than float32 explains.
    """
    from edgekit.graph.torch_emitter import run_with_heads

    height, width = (side * model.config.patch for side in model.config.grid)
    pixels = np.random.default_rng(0).standard_normal((1, 3, height, width), np.float32)
    wanted = run_with_heads(model, heads, pixels)
    found = NativeModel(path).context().run(pixels)
    largest = float(np.abs(found["last_hidden_state"] - wanted["last_hidden_state"]).max())
    if not largest <= FP32_TOLERANCE:  # true of NaN as well
        raise ExportError(f"the fp32 file differs from torch by {largest:.2e}", why=f"the limit is {FP32_TOLERANCE}")
    for name in heads:
        distance = float(np.abs(found[name] - wanted[name]).max() / max(1.0, np.abs(wanted[name]).max()))
        if not distance <= HEAD_TOLERANCE:
            raise ExportError(
                f"the head {name} of the fp32 file differs from torch by {distance:.2e}",
                why=f"the limit is {HEAD_TOLERANCE}",
            )
    return largest
