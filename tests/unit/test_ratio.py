"""Ratios as text: no digit that the interval does not carry."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.measure.ratio import ratio, ratio_range


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (2.86, 2.79, 2.93, "2.9×"),
        (2.86, 2.855, 2.865, "2.86×"),
        (2.86, 2.6, 3.1, "3×"),
        (12.34, 12.3, 12.4, "12.3×"),
        (3.1, 1.9, 5.2, "1.9× to 5.2×"),
        (13.0, 11.0, 15.0, "11× to 15×"),
        (1.14, 1.0, 1.29, "1.0× to 1.3×"),
    ],
)
def test_the_last_digit_is_one_that_the_interval_carries(value, low, high, text):
    assert ratio(value, low, high) == text


def test_a_ratio_without_an_interval_has_two_digits():
    assert [ratio(value) for value in (3.664, 12.3, 0.942)] == ["3.7×", "12×", "0.94×"]


def test_the_ends_of_a_narrow_interval_are_told_apart():
    assert ratio_range(1.02, 1.04) == "1.02× to 1.04×"


@given(st.floats(0.01, 100), st.floats(0, 0.9), st.floats(0, 9))
def test_no_single_number_has_a_unit_below_its_doubt(value, below, above):
    low, high = value * (1 - below), value * (1 + above)
    text = ratio(value, low, high)
    if " to " in text:
        return
    digits = re.fullmatch(r"\d+(?:\.(\d+))?×", text)
    unit = 10.0 ** -len(digits[1] or "")
    doubt = max(value - low, high - value)
    assert unit >= doubt * (1 - 1e-6)
    assert float(text[:-1]) > 0
    assert not math.isclose(unit, 0)
