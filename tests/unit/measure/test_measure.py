"""Measures against values known by hand: intervals, drift, retrieval and noise."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pytest

from edgekit.errors import DataError
from edgekit.measure.drift import measure_drift
from edgekit.measure.features import Features
from edgekit.measure.heads import measure_head_drift
from edgekit.measure.noise import MAX_LOAD, Noise, OtherWork
from edgekit.measure.retrieval import retrieval_drift
from edgekit.measure.statistics import bootstrap_mean, decibel, rate, spread


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


CROPS = np.repeat(np.random.default_rng(4).normal(5, 2, 40), 10)  # 40 photographs, ten crops of each that are alike
PHOTOGRAPHS = [f"photograph {i // 10}" for i in range(400)]


def width(found) -> float:
    return found.high - found.low


def test_ten_copies_of_every_photograph_make_no_interval_narrower():
    each = bootstrap_mean(CROPS[::10])
    copied = bootstrap_mean(CROPS, groups=PHOTOGRAPHS)
    assert (copied.value, copied.low, copied.high) == pytest.approx((each.value, each.low, each.high))
    assert width(bootstrap_mean(CROPS)) < width(copied) / 2
    assert width(spread(CROPS / 10, groups=PHOTOGRAPHS)) == pytest.approx(width(each) / 10)


def test_a_share_of_crops_is_as_sure_as_one_of_photographs():
    hits = np.repeat(np.arange(40) % 4 > 0, 10)
    assert width(rate(hits, groups=PHOTOGRAPHS)) == pytest.approx(width(rate(hits[::10])))
    assert rate(hits, groups=PHOTOGRAPHS).value == rate(hits).value == 0.75
    assert rate(np.ones(400), groups=PHOTOGRAPHS).low == pytest.approx(rate(np.ones(40)).low)


def test_groups_of_one_change_nothing():
    values = CROPS + np.arange(400)
    each = [str(i) for i in range(400)]
    assert bootstrap_mean(values, groups=each) == bootstrap_mean(values)
    assert rate(values > 200, groups=each) == rate(values > 200)


def test_heads_and_features_of_crops_are_counted_by_photograph(features):
    maps = np.repeat(np.random.default_rng(5).random((40, 1, 1)), 10, axis=0)
    copied = measure_head_drift("map", "saliency", maps * 0, maps, groups=PHOTOGRAPHS)
    each = measure_head_drift("map", "saliency", maps[::10] * 0, maps[::10])
    assert width(copied.value) == pytest.approx(width(each.value), rel=0.1)
    noisy = features.tokens + 0.3 * np.random.default_rng(6).standard_normal(features.tokens.shape)
    crops = Features(
        np.repeat(features.tokens, 10, axis=0),
        (2, 2),
        tuple(map(str, range(300))),
        groups=tuple(name for name in features.names for _ in range(10)),
    )
    found = measure_drift(crops, Features(np.repeat(noisy, 10, axis=0).astype(np.float32), (2, 2), crops.names))
    alone = measure_drift(features, changed(features, noisy))
    assert (found.n, found.photographs, alone.photographs) == (300, 30, 30)
    for name in ("cls_cosine", "patch_cosine", "sqnr_db", "patch_sqnr_db"):
        assert width(getattr(found, name)) == pytest.approx(width(getattr(alone, name)), rel=1e-3), name
    assert found.summary()["photographs"] == 30


def test_a_lost_neighbour_that_was_as_near_is_a_near_tie_and_a_far_one_is_not():
    gallery = np.eye(30)[:, :30] * 0.01 + np.random.default_rng(7).standard_normal((30, 30))
    gallery[1], gallery[2] = gallery[0] * 1.0, gallery[0] * 1.0
    gallery[1, 0] += 1e-3
    gallery[2, 0] += 1.1e-3
    moved = gallery + 0.05 * np.random.default_rng(8).standard_normal(gallery.shape)
    own, mixed, _ = retrieval_drift(gallery, moved)
    assert own.changed >= own.near_ties > 0
    broken = gallery.copy()
    broken[5] = gallery[9] * 3 + 0.01  # whatever it was like, it is like another image now
    own, mixed, same = retrieval_drift(gallery, broken)
    assert not same[5]
    for found in (own, mixed):
        assert found.changed > found.near_ties


def test_a_summary_tells_both_galleries(features):
    noisy = features.tokens + 0.5 * np.random.default_rng(9).standard_normal(features.tokens.shape)
    report = measure_drift(features, changed(features, noisy))
    summary = report.summary()
    assert summary["nn_agreement"] == round(report.own.nn_agreement.value, 6)
    assert summary["nn_agreement_mixed"] == round(report.mixed.nn_agreement.value, 6)
    assert summary["nn_changed_mixed"] == report.mixed.changed >= summary["nn_near_ties_mixed"]


def test_the_work_of_others_is_told_from_our_own():
    """A busy process beside us is load, the same process as one of ours is none."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        other, own = OtherWork(()), OtherWork((busy.pid,))
        began = time.process_time()
        time.sleep(1.0)
        as_other, as_own = other.share(), own.share()
        assert time.process_time() - began < 0.5
    finally:
        busy.kill()
        busy.wait()
    assert as_other > as_own
    assert 0 <= as_own <= as_other <= 1


def test_noise_of_an_earlier_version_is_still_read():
    found = Noise.model_validate({"spread": 1.1, "drift": 1.0, "load_before": 0.4, "reasons": []})
    assert found.load == 0.4 > MAX_LOAD
    assert Noise.model_validate_json(found.model_dump_json()) == found
