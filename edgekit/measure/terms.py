"""Terms that each image adds to a drift report: energies, cosines and norms, which shards can compute apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from edgekit.metrics import cosine


@dataclass(frozen=True)
class Centre:
    """The reference's mean class token and mean patch (D,) float64, which "centred" cosines subtract."""

    cls: np.ndarray
    patch: np.ndarray

    @classmethod
    def of(cls, tokens: np.ndarray, patch_sums: np.ndarray, patches: int) -> Centre:
        """The mean tokens from class tokens (n, D), sums over each image's patches (n, D) float64, and their number."""
        mean = np.ascontiguousarray(tokens, np.float64).mean(axis=0)
        return cls(mean, patch_sums.sum(axis=0) / (len(patch_sums) * patches))


@dataclass(frozen=True)
class Terms:
    """Terms of n images: energies of reference and error in float64, cosines, and norms of the reference's patches."""

    reference_cls: np.ndarray  # (n, D) float32
    candidate_cls: np.ndarray  # (n, D) float32
    signal: np.ndarray  # (n, 3): class token, patches, registers
    noise: np.ndarray  # (n, 3)
    cls: np.ndarray  # (n,) cosines
    centred_cls: np.ndarray  # (n,)
    patches: np.ndarray  # (n, P) cosines
    centred: np.ndarray  # (n, P)
    norms: np.ndarray  # (n, P)

    def __len__(self) -> int:
        return len(self.cls)

    @classmethod
    def concatenated(cls, parts: Sequence[Terms]) -> Terms:
        """The terms of all images of the parts, in order."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


def patch_sum(tokens: np.ndarray, patches: int) -> np.ndarray:
    """The sum (D,) float64 of the last `patches` of one image's tokens (N, D)."""
    total: np.ndarray = tokens[len(tokens) - patches :].astype(np.float64).sum(axis=0)
    return total


def terms_of(reference: np.ndarray, candidate: np.ndarray, patches: int, centre: Centre) -> Terms:
    """Compare tokens (n, 1 + R + P, D) of the same images, of which the last P are patches."""
    n, first = len(reference), reference.shape[1] - patches
    signal, noise = np.zeros((n, 3)), np.zeros((n, 3))
    cls, centred_cls = np.zeros(n), np.zeros(n)
    cosines = np.zeros((n, patches))
    centred, norms = np.zeros_like(cosines), np.zeros_like(cosines)
    for i in range(n):  # one image at a time, in float64: 37 x 37 patches of ViT-g would not fit otherwise
        a, b = reference[i].astype(np.float64), candidate[i].astype(np.float64)  # (1 + R + P, D)
        error = ((a - b) ** 2).sum(axis=1)
        energy = (a**2).sum(axis=1)
        signal[i] = energy[0], energy[first:].sum(), energy[1:first].sum()
        noise[i] = error[0], error[first:].sum(), error[1:first].sum()
        cls[i], cosines[i] = cosine(a[:1], b[:1])[0], cosine(a[first:], b[first:])
        centred_cls[i] = cosine(a[:1] - centre.cls, b[:1] - centre.cls)[0]
        centred[i] = cosine(a[first:] - centre.patch, b[first:] - centre.patch)
        norms[i] = np.sqrt(energy[first:])
    return Terms(reference[:, 0], candidate[:, 0], signal, noise, cls, centred_cls, cosines, centred, norms)
