"""Head drift in each task's unit, on outputs whose difference is known."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.errors import DataError
from edgekit.measure.heads import measure_head_drift


def one_hot(classes: list[list[int]], count: int) -> np.ndarray:
    """(n, classes, 1, columns) logits."""
    return np.eye(count, dtype=np.float32)[np.array(classes)].transpose(0, 2, 1)[:, :, None]


def test_top1_agreement_is_the_share_of_equal_first_classes():
    reference = np.eye(4, dtype=np.float32)
    candidate = reference[[0, 1, 2, 0]] * 0.3
    drift = measure_head_drift("cls", "classification", reference, candidate)
    assert (drift.measure, drift.unit, drift.n) == ("top-1 agreement", "", 4)
    assert drift.value.value == 0.75
    assert drift.value.low < 0.75 < drift.value.high


def test_miou_is_over_the_whole_set_and_over_classes_that_appear():
    reference, candidate = one_hot([[0, 0], [0, 1]], 5), one_hot([[0, 0], [1, 1]], 5)
    drift = measure_head_drift("seg", "segmentation", reference, candidate)
    assert drift.measure == "mIoU"
    assert drift.value.value == pytest.approx((2 / 3 + 1 / 2) / 2)  # class 0: 2 of 3; class 1: 1 of 2; others nowhere


def test_rmse_is_in_metres_and_mae_of_saliency():
    reference = np.zeros((2, 2, 2), np.float32)
    candidate = np.stack([np.full((2, 2), 3, np.float32), np.zeros((2, 2), np.float32)])
    depth = measure_head_drift("depth", "depth", reference, candidate)
    assert (depth.measure, depth.unit) == ("RMSE", "m")
    assert depth.value.value == pytest.approx(np.sqrt(4.5))
    assert (depth.value.low, depth.value.high) == (0, 3)  # one of the two images drawn twice
    saliency = measure_head_drift("saliency", "saliency", reference, candidate)
    assert saliency.value.value == pytest.approx(1.5)
    assert saliency.summary() == {"task": "saliency", "measure": "MAE", "unit": "", "value": 1.5, "low": 0, "high": 3}


def test_metric_depth_has_absrel_and_delta1_beside_rmse():
    reference = np.array([[[2.0, 4.0]], [[1.0, 1.0]]])
    candidate = np.array([[[2.2, 4.4]], [[1.0, 1.3]]])  # 10 % off; equal, and off by more than a factor of 1.25
    depth = measure_head_drift("depth", "depth", reference, candidate)
    further = {figure.measure: figure.value for figure in depth.further}
    assert further["AbsRel"].value == pytest.approx((0.1 + 0.15) / 2)
    assert further["delta1"].value == pytest.approx((1 + 0.5) / 2)
    assert (further["delta1"].low, further["delta1"].high) == (0.5, 1)
    assert depth.summary()["delta1"] == 0.75
    assert measure_head_drift("depth", "relative depth", reference, candidate).further == ()


def test_outputs_that_cannot_be_compared_are_refused():
    with pytest.raises(DataError, match=r"\(2, 3\) against \(2, 4\)"):
        measure_head_drift("cls", "classification", np.zeros((2, 4)), np.zeros((2, 3)))
    with pytest.raises(DataError, match="not finite"):
        measure_head_drift("cls", "classification", np.zeros((2, 4)), np.full((2, 4), np.nan))


def test_relative_depth_drifts_in_percent_of_its_range():
    reference = np.stack([np.linspace(0, 10, 12).reshape(3, 4), np.linspace(5, 5.5, 12).reshape(3, 4)])
    found = measure_head_drift(
        "predicted_depth", "relative depth", reference, reference + np.array([0.1, 0.01])[:, None, None]
    )
    assert (found.measure, found.unit) == ("MAE", "% of range")
    assert found.value.value == pytest.approx((1.0 + 2.0) / 2)
