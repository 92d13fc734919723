"""Weight rounding: round to nearest, MSE-optimal clipping, and GPTQ with error feedback over the input Hessian.

Rounding W (out, in) to Q changes the output of a GEMM by (W - Q) x. Its mean square over the calibration inputs is
tr((W - Q) H (W - Q)^T) with the Hessian H = X^T X, so that errors on correlated inputs can cancel each other. GPTQ
(Frantar et al. 2022, arXiv 2210.17323) minimises it greedily, for all output channels at once, in three steps:

1. Fix the quantization grid (`covering`, `least_error`), damp H by a share of its mean diagonal, and sort the input
   channels by falling diagonal ("act order"): those that matter most are rounded while the others can still follow.
2. Take the upper Cholesky factor U of H^-1: its row j holds how rounding channel j is best made up for by later ones.
3. Round channel j to the nearest step, divide its error by U[j, j], and subtract that times U[j, k] from every channel
   k > j that is still open; go on with j + 1.

At 4 bits `refit_scale` and `descend` then improve scales and integers in turn on the same objective.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Rounding = Literal["rtn", "mse", "gptq"]

GPTQ_BLOCK = 128  # columns whose updates are applied together; results do not depend on it
GPTQ_DAMPING = 0.05  # share of the mean diagonal added to the Hessian: with the paper's 0.01 a GEMM's error is 0.05 dB
# less on photographs like those of calibration, and 0.1 to 0.2 dB more on others
SWEEPS = 2  # of coordinate descent
REFITS = 1  # rounds of scales and integers in turn, behind GPTQ at 4 bits; more bring hundredths of a dB
REFIT_ANCHOR = 1e-3  # how firmly the scales are held, as share of their own curvature
REFIT_ROWS = 64  # output channels solved together: bounds the memory


def weight_limit(bits: float) -> int:
    """Largest magnitude of a symmetric weight of that many bits: 127 of 8, 89 of 7.5, 63, 7."""
    return int(2 ** (bits - 1)) - 1


@dataclass(frozen=True)
class QuantGrid:
    """Per-group quantization grid of a weight matrix: scale, qmin (`low`) and qmax (`high`), (out, groups) each.

    A group is so many neighbouring input channels. A symmetric grid has as many steps below zero as above it; one with
    zero points has all 2^bits steps, as many on either side as suit the group.
    """

    scale: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def symmetric(cls, scale: Tensor, bits: float) -> QuantGrid:
        """The symmetric grid of scales (out, groups)."""
        high = torch.full_like(scale, weight_limit(bits))
        return cls(scale, -high, high)

    @classmethod
    def between(cls, least: Tensor, most: Tensor, bits: float) -> QuantGrid:
        """The asymmetric grid of 2^bits steps that covers [least, most] (out, groups) and zero."""
        least, most = least.clamp(max=0), most.clamp(min=0)
        scale = ((most - least) / (2**bits - 1)).clamp(min=1e-12)
        low = torch.round(least / scale)
        return cls(scale, low, low + 2**bits - 1)

    def columns(self, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Scale, low and high of every weight: (out, width) each."""
        group = width // self.scale.shape[1]
        scale, low, high = (part.repeat_interleave(group, 1) for part in (self.scale, self.low, self.high))
        return scale, low, high

    def rounded(self, weight: Tensor) -> Tensor:
        """Weights (out, in) rounded to the nearest step, as float integers."""
        scale, low, high = self.columns(weight.shape[1])
        return torch.round(weight / scale).clamp(low, high)


def covering(weight: Tensor, bits: float, group: int, *, zero_points: bool, ratio: float = 1.0) -> QuantGrid:
    """The grid that just covers each group of weights (out, in), or that share `ratio` of its range."""
    blocks = weight.unflatten(1, (-1, group)) * ratio
    if zero_points:
        return QuantGrid.between(blocks.amin(-1), blocks.amax(-1), bits)
    return QuantGrid.symmetric((blocks.abs().amax(-1) / weight_limit(bits)).clamp(min=1e-12), bits)


def least_error(
    weight: Tensor, bits: float, group: int, *, zero_points: bool = False, importance: Tensor | None = None
) -> QuantGrid:
    """Like `covering`, shrunk per group to the share of the range with the least squared error.

    `importance` (in,) weighs the error by the energy of each input channel (the Hessian's diagonal).
    """
    weigh = torch.ones(weight.shape[1]) if importance is None else importance
    best, best_error = covering(weight, bits, group, zero_points=zero_points), torch.tensor(torch.inf)
    for ratio in torch.linspace(1.0, 0.4 if bits <= 4 else 0.8, 25 if bits <= 4 else 11).tolist():
        grid = covering(weight, bits, group, zero_points=zero_points, ratio=ratio)
        scale, _, _ = grid.columns(weight.shape[1])
        error = ((grid.rounded(weight) * scale - weight) ** 2 * weigh.to(weight)).unflatten(1, (-1, group)).sum(-1)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best = QuantGrid(
            *(
                torch.where(better, new, old)
                for new, old in ((grid.scale, best.scale), (grid.low, best.low), (grid.high, best.high))
            )
        )
    return best


def _damped(hessian: Tensor) -> Tensor:
    """Damped Hessian H + lambda * mean(diag H) * I (GPTQ percdamp): rarely used inputs are still rounded with care."""
    damped = hessian.clone()
    damped.diagonal().add_(GPTQ_DAMPING * hessian.diagonal().mean())
    return damped


def gptq(weight: Tensor, grid: QuantGrid, hessian: Tensor) -> Tensor:
    """GPTQ: integers (out, in) column by column, each rounding error fed back into the columns still open.

    Minimises tr((W - Q) H (W - Q)^T) greedily, columns in the order of falling diagonal ("act order").
    Source: Frantar et al. 2022, arXiv 2210.17323, algorithm 1 (Cholesky form).

    Args:
        weight: (out, in) float.
        grid: fixed beforehand.
        hessian: (in, in) float64, X^T X of the GEMM's (quantized) input, any overall scale.
    """
    columns = weight.shape[1]
    h = hessian.double().clone()
    dead = h.diagonal() <= 0
    h[dead, dead] = 1.0
    order = torch.argsort(h.diagonal(), descending=True, stable=True)
    h = _damped(h[order][:, order])
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True).float()
    w = weight.float()[:, order].clone()
    step, low, high = (part.float()[:, order] for part in grid.columns(columns))
    q = torch.empty_like(w)
    for start in range(0, columns, GPTQ_BLOCK):
        stop = min(start + GPTQ_BLOCK, columns)
        errors = torch.empty(len(w), stop - start)
        for j in range(start, stop):
            q[:, j] = torch.round(w[:, j] / step[:, j]).clamp(low[:, j], high[:, j])
            error = (w[:, j] - q[:, j] * step[:, j]) / inverse[j, j]
            w[:, j + 1 : stop] -= error[:, None] * inverse[j, j + 1 : stop]
            errors[:, j - start] = error
        w[:, stop:] -= errors @ inverse[start:stop, stop:]
    steps = torch.empty_like(q)
    steps[:, order] = q
    return steps


def descend(weight: Tensor, steps: Tensor, grid: QuantGrid, hessian: Tensor) -> Tensor:
    """Coordinate descent: integers (out, in) after sweeps over tr((W - Q) H (W - Q)^T), which GPTQ minimises greedily.

    Column by column each takes its best value given all the others, so that the error can but fall.
    """
    columns = weight.shape[1]
    step, low, high = grid.columns(columns)
    h, q = _damped(hessian).float(), steps.clone()
    error = weight - q * step
    pull = error @ h  # (out, in)
    for _ in range(SWEEPS):
        for start in range(0, columns, GPTQ_BLOCK):
            block = slice(start, min(start + GPTQ_BLOCK, columns))
            inner, before, here = h[block, block], error[:, block].clone(), pull[:, block].clone()
            for j in range(inner.shape[0]):
                k = start + j
                best = torch.round(q[:, k] + here[:, j] / (inner[j, j] * step[:, k])).clamp(low[:, k], high[:, k])
                change = (q[:, k] - best) * step[:, k]
                q[:, k] = best
                error[:, k] += change
                here += change[:, None] * inner[j]
            pull += (error[:, block] - before) @ h[block]
    return q


def refit_scale(weight: Tensor, steps: Tensor, scale: Tensor, hessian: Tensor) -> Tensor:
    """Least-squares scales (out, groups) per output channel: the least tr((W - Q) H (W - Q)^T) for given integers.

    A little of the old scales is mixed in, for groups whose steps are all zero.
    """
    out, groups = scale.shape
    h = _damped(hessian).float()
    q = steps.unflatten(1, (groups, -1))  # (out, groups, group)
    right = (q * (weight @ h).unflatten(1, (groups, -1))).sum(-1)
    blocks = h.unflatten(0, (groups, -1)).unflatten(2, (groups, -1))  # (groups, group, groups, group)
    fitted = torch.empty_like(scale)
    for rows in torch.arange(out).split(REFIT_ROWS):
        product = torch.einsum("oga,gahb->oghb", q[rows], blocks)
        left = torch.einsum("oghb,ohb->ogh", product, q[rows])
        anchor = REFIT_ANCHOR * left.diagonal(dim1=1, dim2=2).mean(1, keepdim=True) + 1e-20
        left.diagonal(dim1=1, dim2=2).add_(anchor)
        fitted[rows] = torch.linalg.solve(left, right[rows] + anchor * scale[rows])
    return torch.where(fitted > 0, fitted, scale)


@dataclass(frozen=True)
class IntegerWeight:
    """Integer weights (out, in) int8 with `scale` (out, groups) float32 and `zero_point` (out, groups) int8.

    `zero_point` is None if the weights are symmetric.
    """

    integers: Tensor
    scale: Tensor
    zero_point: Tensor | None = None

    def real(self) -> Tensor:
        """Dequantized weights (out, in) float64."""
        group = self.integers.shape[1] // self.scale.shape[1]
        zero = 0 if self.zero_point is None else self.zero_point.double().repeat_interleave(group, 1)
        return (self.integers.double() - zero) * self.scale.double().repeat_interleave(group, 1)


def quantize_weight(
    weight: Tensor, bits: float, group: int | None, rounding: Rounding, hessian: Tensor, *, zero_points: bool = False
) -> IntegerWeight:
    """Weights (out, in) by the chosen method, one scale (and zero point) for `group` inputs, None for all of them.

    Raises:
        ValueError: the group size does not divide the input width.
    """
    group = group or weight.shape[1]
    if weight.shape[1] % group:
        raise ValueError(f"group size {group} does not divide the input width {weight.shape[1]}")
    if rounding == "rtn":
        grid = covering(weight, bits, group, zero_points=zero_points)
    else:
        importance = hessian.diagonal() if bits <= 4 else None
        grid = least_error(weight, bits, group, zero_points=zero_points, importance=importance)
    grid = replace(grid, scale=grid.scale.float())
    if rounding == "gptq":
        steps = gptq(weight, grid, hessian)
        for _ in range(REFITS if bits <= 4 else 0):
            grid = replace(grid, scale=refit_scale(weight, steps, grid.scale, hessian))
            steps = descend(weight, steps, grid, hessian)
    else:
        steps = grid.rounded(weight)
    if not zero_points:
        return IntegerWeight(steps.to(torch.int8), grid.scale)
    zero = -(2 ** (bits - 1)) - grid.low
    spread = zero.repeat_interleave(group, 1)
    return IntegerWeight((steps + spread).to(torch.int8), grid.scale, zero.to(torch.int8))
