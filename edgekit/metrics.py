"""The two measures of drift that everything else is made of: SQNR and cosine. numpy alone."""

from __future__ import annotations

import math

import numpy as np

MAX_DB = 150.0  # of equal arrays: beyond the last bit of float32


def decibel(signal: float, noise: float) -> float:
    """10 log10(signal / noise) of two energies, at most `MAX_DB`."""
    least = 10 ** (-MAX_DB / 10)
    return MAX_DB if noise <= least * signal else 10 * math.log10(max(signal / noise, least))


def sqnr_db(reference: np.ndarray, other: np.ndarray) -> float:
    """Signal to quantization noise of `other`, an array like `reference`, in dB over all elements."""
    wanted = np.asarray(reference, np.float64)
    return decibel(float(np.square(wanted).sum()), float(np.square(wanted - other).sum()))


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine over the last axis, (..., D) and (..., D) -> (...), in float64: of two zero vectors 1, of one alone 0."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    both_zero = (np.abs(a).max(axis=-1) == 0) & (np.abs(b).max(axis=-1) == 0)
    cosines = (a * b).sum(axis=-1) / np.where(lengths > 0, lengths, 1.0)
    result: np.ndarray = np.where(both_zero, 1.0, cosines).clip(-1.0, 1.0)
    return result
