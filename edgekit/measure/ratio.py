"""Ratios as text: "2.9×", with no more digits than the 95 % interval of the ratio carries."""

from __future__ import annotations

import math

_MOST_DIGITS = 3  # significant, of a ratio whose interval is narrow
_DIGITS_ALONE = 2  # significant, of a ratio without an interval


def ratio(value: float, low: float | None = None, high: float | None = None) -> str:
    """`2.9×` of 2.86 within 2.79 .. 2.93, and `1.9× to 5.2×` of 3.1 within 1.9 .. 5.2.

    The unit of the last digit is no smaller than the distance from `value` to the further end of the interval. Where
    that unit exceeds half the value, or one, a single number would say too much: the interval stands in its place.

    Args:
        value: above 0.
        low: lower end of its interval; None where the ratio has none, as that of two file sizes.
        high: upper end.
    """
    most = (_DIGITS_ALONE if low is None else _MOST_DIGITS) - 1 - math.floor(math.log10(value))
    doubt = max(value - low, high - value) if low is not None and high is not None else 0.0
    carried = most if doubt <= 0 else math.floor(1e-9 - math.log10(doubt))
    if low is not None and high is not None and carried < most and (carried < 0 or 10.0**-carried > value / 2):
        return ratio_range(low, high)
    return f"{value:.{max(0, min(most, carried))}f}×"


def ratio_range(low: float, high: float) -> str:
    """`2.8× to 2.9×`: both ends with two significant digits, or with as many as tell them apart."""
    least = _DIGITS_ALONE - 1 - math.floor(math.log10(max(high, 1e-9)))
    apart = math.ceil(-math.log10(high - low) - 1e-9) if high > low else 0
    digits = max(0, min(_MOST_DIGITS, max(least, apart)))
    return f"{low:.{digits}f}× to {high:.{digits}f}×"
