"""Weight rounding: round to nearest, MSE-optimal clipping, and GPTQ with error feedback over the input Hessian."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Rounding = Literal["rtn", "mse", "gptq"]

GPTQ_BLOCK = 128  # columns whose updates are applied together; results do not depend on it
GPTQ_DAMPING = 0.05  # share of the mean diagonal added to the Hessian: with the paper's 0.01 a GEMM's error is 0.05 dB
# less on photographs like those of calibration, and 0.1 to 0.2 dB more on others
REFITS = 1  # rounds of scales and integers in turn, behind GPTQ at 4 bits; more bring hundredths of a dB
REFIT_ANCHOR = 1e-3  # how firmly the scales are held, as share of their own curvature
REFIT_ROWS = 64  # output channels solved together: bounds the memory


def weight_limit(bits: int) -> int:
    """Largest magnitude of a symmetric weight of that many bits: 127, 63, 7."""
    return 2 ** (bits - 1) - 1


def max_scale(weight: Tensor, bits: int, group: int) -> Tensor:
    """Scale per output channel and group that just covers the largest weight: (out, in) -> (out, in / group)."""
    peak = weight.unflatten(1, (-1, group)).abs().amax(-1)
    return (peak / weight_limit(bits)).clamp(min=1e-12)


def mse_scale(weight: Tensor, bits: int, group: int, importance: Tensor | None = None) -> Tensor:
    """Like `max_scale`, shrunk per channel to the clip ratio with the least squared error.

    `importance` (in,) weighs the error by the energy of each input channel (the Hessian's diagonal).
    """
    blocks = weight.unflatten(1, (-1, group))  # (out, groups, group)
    weigh = torch.ones(weight.shape[1]) if importance is None else importance
    weigh = weigh.to(weight).unflatten(0, (-1, group))
    full, limit = max_scale(weight, bits, group), weight_limit(bits)
    best, best_error = full.clone(), torch.full_like(full, torch.inf)
    for ratio in torch.linspace(1.0, 0.4 if bits <= 4 else 0.8, 25 if bits <= 4 else 11):
        scale = full * ratio
        rounded = torch.round(blocks / scale[..., None]).clamp(-limit, limit) * scale[..., None]
        error = ((rounded - blocks) ** 2 * weigh).sum(-1)
        better = error < best_error
        best, best_error = torch.where(better, scale, best), torch.where(better, error, best_error)
    return best


def round_to_nearest(weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Integers (out, in) int8 for a given scale (out, groups)."""
    limit = weight_limit(bits)
    group = weight.shape[1] // scale.shape[1]
    return torch.round(weight / scale.repeat_interleave(group, 1)).clamp(-limit, limit).to(torch.int8)


def _damped(hessian: Tensor) -> Tensor:
    """The Hessian with a little white noise, which keeps rarely used inputs from being rounded at will."""
    damped = hessian.clone()
    damped.diagonal().add_(GPTQ_DAMPING * hessian.diagonal().mean())
    return damped


def gptq(weight: Tensor, scale: Tensor, bits: int, hessian: Tensor) -> Tensor:
    """Integers (out, in) int8 chosen column by column, each column's rounding error fed into those still open.

    Minimises tr((W - Q) H (W - Q)^T) greedily, columns in the order of falling diagonal ("act order").
    Source: Frantar et al. 2022, arXiv 2210.17323, algorithm 1 (Cholesky form).

    Args:
        weight: (out, in) float.
        scale: (out, groups), fixed beforehand.
        bits: 8, 7 or 4.
        hessian: (in, in) float64, X^T X of the GEMM's (quantized) input, any overall scale.
    """
    limit = weight_limit(bits)
    columns = weight.shape[1]
    step = scale.repeat_interleave(columns // scale.shape[1], 1).float()  # (out, in)
    h = hessian.double().clone()
    dead = h.diagonal() <= 0
    h[dead, dead] = 1.0
    order = torch.argsort(h.diagonal(), descending=True, stable=True)
    h = _damped(h[order][:, order])
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True).float()
    w, step = weight.float()[:, order].clone(), step[:, order]
    q = torch.empty_like(w)
    for start in range(0, columns, GPTQ_BLOCK):
        stop = min(start + GPTQ_BLOCK, columns)
        errors = torch.empty(len(w), stop - start)
        for j in range(start, stop):
            q[:, j] = torch.round(w[:, j] / step[:, j]).clamp(-limit, limit)
            error = (w[:, j] - q[:, j] * step[:, j]) / inverse[j, j]
            w[:, j + 1 : stop] -= error[:, None] * inverse[j, j + 1 : stop]
            errors[:, j - start] = error
        w[:, stop:] -= errors @ inverse[start:stop, stop:]
    integers = torch.empty_like(q)
    integers[:, order] = q
    return integers.to(torch.int8)


def descend(weight: Tensor, integers: Tensor, scale: Tensor, bits: int, hessian: Tensor, sweeps: int = 2) -> Tensor:
    """Integers after sweeps of coordinate descent on tr((W - Q) H (W - Q)^T), which GPTQ only minimises greedily.

    Column by column each integer takes its best value given all the others, so that the error can but fall.
    """
    limit, columns = weight_limit(bits), weight.shape[1]
    step = scale.repeat_interleave(columns // scale.shape[1], 1)
    h, q = _damped(hessian).float(), integers.float()
    error = weight - q * step
    pull = error @ h  # (out, in)
    for _ in range(sweeps):
        for start in range(0, columns, GPTQ_BLOCK):
            block = slice(start, min(start + GPTQ_BLOCK, columns))
            inner, before, here = h[block, block], error[:, block].clone(), pull[:, block].clone()
            for j in range(inner.shape[0]):
                k = start + j
                best = torch.round(q[:, k] + here[:, j] / (inner[j, j] * step[:, k])).clamp(-limit, limit)
                change = (q[:, k] - best) * step[:, k]
                q[:, k] = best
                error[:, k] += change
                here += change[:, None] * inner[j]
            pull += (error[:, block] - before) @ h[block]
    return q.to(torch.int8)


def refit_scale(weight: Tensor, integers: Tensor, scale: Tensor, hessian: Tensor) -> Tensor:
    """Scales (out, groups) with the least tr((W - Q) H (W - Q)^T) for given integers: least squares per output channel.

    A little of the old scales is mixed in, for groups whose integers are all zero.
    """
    out, groups = scale.shape
    h = _damped(hessian).float()
    q = integers.float().unflatten(1, (groups, -1))  # (out, groups, group)
    right = (q * (weight @ h).unflatten(1, (groups, -1))).sum(-1)
    blocks = h.unflatten(0, (groups, -1)).unflatten(2, (groups, -1))  # (groups, group, groups, group)
    fitted = torch.empty_like(scale)
    for rows in torch.arange(out).split(REFIT_ROWS):
        half = torch.einsum("oga,gahb->oghb", q[rows], blocks)
        left = torch.einsum("oghb,ohb->ogh", half, q[rows])
        anchor = REFIT_ANCHOR * left.diagonal(dim1=1, dim2=2).mean(1, keepdim=True) + 1e-20
        left.diagonal(dim1=1, dim2=2).add_(anchor)
        fitted[rows] = torch.linalg.solve(left, right[rows] + anchor * scale[rows])
    return torch.where(fitted > 0, fitted, scale)


def quantize_weight(
    weight: Tensor, bits: int, group: int | None, rounding: Rounding, hessian: Tensor
) -> tuple[Tensor, Tensor]:
    """(integers (out, in) int8, scale (out, groups) float32) by the chosen method.

    Raises:
        ValueError: the group size does not divide the input width.
    """
    group = group or weight.shape[1]
    if weight.shape[1] % group:
        raise ValueError(f"group size {group} does not divide the input width {weight.shape[1]}")
    if rounding == "rtn":
        scale = max_scale(weight, bits, group)
    else:
        scale = mse_scale(weight, bits, group, hessian.diagonal() if bits <= 4 else None)
    scale = scale.float()
    if rounding == "gptq":
        integers = gptq(weight, scale, bits, hessian)
        for _ in range(REFITS if bits <= 4 else 0):
            scale = refit_scale(weight, integers, scale, hessian)
            integers = descend(weight, integers, scale, bits, hessian)
        return integers, scale
    return round_to_nearest(weight, scale, bits), scale
