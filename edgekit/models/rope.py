"""Rotary positions of two axes, as DINOv3 has them: the tables by which queries and keys of the patches are turned.

Source: facebookresearch/dinov3, dinov3/layers/rope_position_encoding.py (Siméoni et al. 2025, arXiv 2508.10104). The
first half of each half of a head's channels turns with the patch's row, the second with its column.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgekit.models.config import Periods, ViTConfig


def periods_of(base: float, head_dim: int, exact: Periods) -> np.ndarray:
    """Periods (head_dim / 4,) float64 of the channel pairs that turn with one axis: base^(4 j / head_dim).

    Meta's files hold them rounded to bfloat16, and its code uses those; Hugging Face and timm compute float32.
    """
    periods = base ** (4 * np.arange(head_dim // 4) / head_dim)
    return rounded_to_bfloat16(periods) if exact == "bfloat16" else periods


def slowest_first(head_dim: int) -> np.ndarray:
    """The channels (head_dim,) of an attention head in the order of their periods, the longest first."""
    period = np.arange(head_dim) % (head_dim // 4)
    return np.argsort(-period, kind="stable")


def rounded_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Positive numbers rounded to the nearest bfloat16, half to even: float64."""
    bits = values.astype(np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def rotation_of(config: ViTConfig) -> tuple[np.ndarray, np.ndarray]:
    """Rotation (cos, sin), each (N, d) float32, of all tokens of the config's grid: y = x * cos + swapped(x) * sin.

    `swapped` exchanges the two halves of a head's channels; the minus of a rotation is in the first half of `sin`. The
    class token and the registers stay as they are: cos 1, sin 0. Patches have the coordinates of their centres, from -1
    to 1 along each side of the image.
    """
    centres = [2 * (np.arange(side) + 0.5) / side - 1 for side in config.grid]
    places = np.stack(np.meshgrid(*centres, indexing="ij"), axis=-1).reshape(-1, 2, 1)  # (P, row and column, 1)
    periods = periods_of(config.rope_base, config.head_dim, config.rope_periods)
    angles = (2 * np.pi * places / periods).reshape(len(places), -1)  # (P, d / 2)
    cos = np.concatenate([np.cos(angles)] * 2, axis=1)
    sin = np.concatenate([-np.sin(angles), np.sin(angles)], axis=1)
    still = np.ones((config.prefix, config.head_dim))
    tables = np.concatenate([still, cos]), np.concatenate([0 * still, sin])
    return tables[0].astype(np.float32), tables[1].astype(np.float32)
