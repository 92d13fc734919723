"""Measures against values known by hand: intervals, drift, retrieval and noise."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.errors import DataError
from edgekit.measure.drift import measure_drift
from edgekit.measure.features import Features
from edgekit.measure.noise import Noise
from edgekit.measure.retrieval import retrieval_drift
from edgekit.measure.statistics import bootstrap_mean, decibel, rate


@pytest.fixture
def features() -> Features:
    tokens = np.random.default_rng(0).standard_normal((30, 5, 16)).astype(np.float32)
    return Features(tokens, (2, 2), tuple(f"photo {i}" for i in range(30)))


def changed(features: Features, tokens: np.ndarray) -> Features:
    return Features(tokens.astype(np.float32), features.grid, features.names)


def test_wilson_interval_of_a_share_has_the_textbook_values():
    found = rate(np.array([1] * 81 + [0] * 182))  # Newcombe 1998, table I: 81 of 263
    assert found.value == pytest.approx(0.3080, abs=1e-4)
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=1e-4)


def test_no_percentage_of_a_few_images():
    assert rate(np.ones(3)).value is None
    assert "too few" in rate(np.ones(3)).reason


def test_bootstrap_interval_agrees_with_the_normal_one():
    values = np.random.default_rng(1).normal(5, 2, 400)
    found = bootstrap_mean(values)
    half = 1.96 * values.std() / 20
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)
    assert bootstrap_mean(values) == found


def test_decibel():
    assert decibel(100.0, 1.0) == pytest.approx(20)
    assert decibel(1.0, 0.0) == 150


def test_a_known_error_gives_its_sqnr(features):
    report = measure_drift(features, changed(features, features.tokens * 0.9))
    assert report.sqnr_db.value == pytest.approx(20, abs=1e-4)  # an error of a tenth
    assert report.cls_cosine.min == pytest.approx(1)  # which no cosine sees
    assert report.own.nn_agreement.value == 1


def test_a_rotated_class_token_gives_its_cosine(features):
    tokens = features.tokens.copy()
    tokens[:, 0] = 0
    tokens[:, 0, 0] = 1
    turned = tokens.copy()
    turned[:, 0, :2] = 0.6, 0.8
    report = measure_drift(changed(features, tokens), changed(features, turned))
    assert report.cls_cosine.mean == pytest.approx(0.6)
    assert report.grade == "broken"


def test_one_damaged_image_is_named_the_worst(features):
    tokens = features.tokens.copy()
    tokens[7] *= -1
    assert measure_drift(features, changed(features, tokens)).worst(1)[0].name == "photo 7"


def test_features_that_cannot_be_compared_are_refused(features):
    bad = features.tokens.copy()
    bad[0, 0, 0] = np.nan
    with pytest.raises(DataError, match="not finite"):
        measure_drift(features, changed(features, bad))
    with pytest.raises(DataError, match="shape"):
        measure_drift(features, changed(features, features.tokens[:, :, :8]))
    with pytest.raises(DataError, match="other images"):
        measure_drift(features, Features(features.tokens, (2, 2), features.names[::-1]))


def test_an_old_index_notices_what_a_new_one_does_not():
    gallery = np.random.default_rng(2).standard_normal((40, 8))
    rotation = np.linalg.qr(np.random.default_rng(3).standard_normal((8, 8)))[0]
    own, mixed, same = retrieval_drift(gallery, gallery @ rotation)
    assert own.nn_agreement.value == 1
    assert same.all()
    assert mixed.nn_agreement.value < 0.5


@pytest.mark.parametrize(
    ("times", "load", "word"),
    [
        ([[1] * 8, [1] * 8], 0, None),
        ([[1] * 8, [2] * 8], 0, "slowest round"),
        ([[1] * 8], 2, "busy"),
        ([[1] * 7 + [9] * 3], 0, "a tenth"),
    ],
)
def test_noise_is_called_by_its_name(times, load, word):
    reasons = Noise.of(times, load).reasons
    assert any(word in reason for reason in reasons) if word else reasons == ()
