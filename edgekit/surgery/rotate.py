"""Rotate the residual stream by an orthogonal matrix that keeps the mean, so that every LayerNorm commutes with it.

With gamma and beta folded into the next linear and 1^T Q = 1^T, LN(x Q) = LN(x) Q holds exactly: the mean is kept by
construction, the variance by orthogonality. QuaRot (arXiv 2404.00456) and SpinQuant (arXiv 2405.16406) rotate RMSNorm
models; keeping the ones vector fixed is what makes the idea safe for LayerNorm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from edgekit.surgery.fold_layerscale import first_linear, last_linear

if TYPE_CHECKING:
    from edgekit.models.vit import VisionTransformer


def mean_preserving_rotation(width: int, seed: int = 0) -> Tensor:
    """A random orthogonal (D, D) float64 matrix Q with 1^T Q = 1^T and Q 1 = 1."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(width, width, generator=generator, dtype=torch.float64)
    basis[:, 0] = 1.0
    basis, _ = torch.linalg.qr(basis)  # first column is +-1/sqrt(D), the others span its complement
    inner, _ = torch.linalg.qr(torch.randn(width - 1, width - 1, generator=generator, dtype=torch.float64))
    complement = basis[:, 1:]
    return torch.full((width, width), 1 / width, dtype=torch.float64) + complement @ inner @ complement.T


@torch.no_grad()
def _fold_affine(norm: nn.LayerNorm, linear: nn.Linear) -> None:
    linear.bias.add_(linear.weight @ norm.bias)
    linear.weight.mul_(norm.weight)
    norm.weight.fill_(1.0)
    norm.bias.zero_()


@torch.no_grad()
def rotate(model: VisionTransformer, rotation: Tensor) -> None:
    """Rotate every tensor that writes to or reads from the residual stream, in place; LayerScale must be folded.

    The final norm sees the un-rotated stream: `model.unrotate` = Q^T costs one D x D product per token.

    Raises:
        ValueError: LayerScale is still there, or `rotation` is not orthogonal or does not keep the mean.
    """
    width = model.config.width
    q = rotation.double()
    eye = torch.eye(width, dtype=torch.float64)
    if (q.T @ q - eye).abs().max() > 1e-9 or (q.sum(0) - 1).abs().max() > 1e-9:
        raise ValueError("the rotation must be orthogonal and keep the mean (columns must sum to 1)")
    if any(not isinstance(scale, nn.Identity) for block in model.blocks for scale in (block.ls1, block.ls2)):
        raise ValueError("fold LayerScale before rotating: its gain per channel does not commute with a rotation")

    def turn(value: Tensor) -> Tensor:  # last axis lives in the residual stream
        return (value.double() @ q).float()

    for name in ("cls_token", "pos_embed", "register_tokens"):
        if hasattr(model, name):
            getattr(model, name).copy_(turn(getattr(model, name)))
    conv = model.patch_embed.proj
    conv.weight.copy_((q.T @ conv.weight.double().flatten(1)).reshape(conv.weight.shape).float())
    if conv.bias is not None:
        conv.bias.copy_(turn(conv.bias))
    for block in model.blocks:
        first, last = first_linear(block), last_linear(block)
        for norm, reader, writer in ((block.norm1, block.attn.qkv, block.attn.proj), (block.norm2, first, last)):
            _fold_affine(norm, reader)
            reader.weight.copy_(turn(reader.weight))
            writer.weight.copy_((q.T @ writer.weight.double()).float())
            writer.bias.copy_(turn(writer.bias))
    model.unrotate = nn.Parameter(q.T.float().contiguous())
