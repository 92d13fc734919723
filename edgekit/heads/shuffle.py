"""A transposed convolution as a plain one whose channels are shuffled into space: every runtime has a fast kernel."""

from __future__ import annotations

import numpy as np


def as_shuffled(weight: np.ndarray, bias: np.ndarray, stride: int, padding: int) -> tuple[np.ndarray, np.ndarray]:
    """Weight (out * stride^2, in, m, m) and bias of the plain convolution for a transposed one of (in, out, k, k).

    Shi et al. 2016: output row `stride * i + r` sees input row `i + d` through tap `r + padding - stride * d`. m is 1
    where kernel and stride are equal without padding, else 3; the convolution is to be padded by m // 2.
    """
    inputs, outputs, kernel, _ = weight.shape
    reach = 0 if kernel == stride and padding == 0 else 1
    taps = range(-reach, reach + 1)
    found = np.zeros((outputs, stride, stride, inputs, len(taps), len(taps)), np.float32)
    for row in range(stride):
        for column in range(stride):
            for dy in taps:
                for dx in taps:
                    y, x = row + padding - stride * dy, column + padding - stride * dx
                    if 0 <= y < kernel and 0 <= x < kernel:
                        found[:, row, column, :, dy + reach, dx + reach] = weight[:, :, y, x].T
    return found.reshape(-1, inputs, len(taps), len(taps)), np.repeat(bias, stride**2)
