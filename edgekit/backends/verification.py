"""Checks of a file that was read back: near the model where it is float, the plan number by number where it is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.errors import ExportError
from edgekit.metrics import sqnr_db
from edgekit.precision import Precision

if TYPE_CHECKING:
    from edgekit.graph.heads import Head
    from edgekit.models.vit import VisionTransformer

FP32_TOLERANCE = 1e-4  # of a float32 file from torch, absolute or of the largest value
HEAD_TOLERANCE = 1e-3  # of a head's output, where that is larger than 1 relative to it
FP16_SQNR_DB = 40.0  # least a float16 file must reach; DINOv2 gives 55-60


def require_near(
    model: VisionTransformer,
    precision: Precision,
    run: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    *,
    heads: Mapping[str, Head] | None = None,
    relative: bool = True,
    sizes: Sequence[tuple[int, int]] = (),
) -> None:
    """Run a float file on one seeded image of each size and compare it with torch.

    Args:
        model: the source of the file.
        precision: of the file.
        run: the file: pixels (1, 3, H, W) in, outputs by name out.
        heads: further outputs, compared in fp32.
        relative: whether the limit of a float32 file grows with the largest value where that is above 1.
        sizes: (height, width) of the images in pixels; () is the one that the model is baked for.

    Raises:
        ExportError: not finite, or further away than the precision explains.
    """
    from edgekit.graph.torch_emitter import run_with_heads

    rows, columns = model.config.grid
    for size in sizes or ((rows * model.config.patch, columns * model.config.patch),):
        pixels = np.random.default_rng(0).standard_normal((1, 3, *size), np.float32)
        wanted = run_with_heads(model, heads or {}, pixels)
        _require_near(wanted, run(pixels), precision, list(heads or {}), relative)


def _require_near(
    wanted: Mapping[str, np.ndarray],
    found: Mapping[str, np.ndarray],
    precision: Precision,
    heads: Sequence[str],
    relative: bool,
) -> None:
    """Raises ExportError where outputs of a file are not finite, or not near those of torch."""
    if not all(np.isfinite(value).all() for value in found.values()):
        raise ExportError(
            f"the {precision} file computes values that are not finite",
            why="an activation is out of the type's range",
            fix="--precision fp32",
        )
    expected, actual = (outputs["last_hidden_state"] for outputs in (wanted, found))
    if precision == "fp32":
        _require_tolerance("fp32 file", expected, actual, FP32_TOLERANCE, relative=relative)
        for name in heads:
            _require_tolerance(f"head {name} of the fp32 file", wanted[name], found[name], HEAD_TOLERANCE)
    if precision == "fp16" and (reached := sqnr_db(expected, actual)) < FP16_SQNR_DB:
        raise ExportError(
            f"the fp16 file reaches {reached:.1f} dB only",
            why=f"{FP16_SQNR_DB:.0f} dB are expected",
            fix="--precision fp32",
        )


def refuse_differences(path: Path, problems: Sequence[str]) -> None:
    """Raises ExportError with the first three differences of a file from its plan; returns where there is none."""
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ExportError(f"{path.name} is not the plan: {'; '.join(problems[:3])}{more}")


def _require_tolerance(
    what: str, expected: np.ndarray, actual: np.ndarray, tolerance: float, *, relative: bool = True
) -> None:
    limit = tolerance * (max(1.0, float(np.abs(expected).max())) if relative else 1.0)
    if (largest := float(np.abs(actual - expected).max())) > limit:
        raise ExportError(f"the {what} differs from torch by {largest:.2e}", why=f"the limit is {limit:.1e}")
