"""Compares a `.edgekit` file with what it was written from: a plan number by number, a float model by running."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.backends.edgekit.container import expected_tensors
from edgekit.backends.verification import refuse_differences, require_near
from edgekit.errors import DataError, ExportError
from edgekit.native.model import NativeModel
from edgekit.plan.quant import QuantPlan
from edgekit.precision import REFERENCE

if TYPE_CHECKING:
    from edgekit.graph.heads import Head
    from edgekit.models.vit import VisionTransformer


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


def verify_float(path: Path, model: VisionTransformer, heads: Mapping[str, Head]) -> None:
    """Run a float file on one seeded image and compare it with torch.

    Raises:
        ExportError: not finite, or further away than float32 explains.
    """
    require_near(model, REFERENCE, NativeModel(path).context().run, heads=heads, relative=False)
