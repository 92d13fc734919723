"""k-NN, probe and paired tests against values known by hand, and their refusals."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.measure.accuracy import AccuracyJudge, mcnemar, paired_drop
from edgekit.measure.drift import OnTasks, measure_drift
from edgekit.measure.features import Features
from edgekit.measure.knn import knn_predictions


def blobs(images: int, *, seed: int = 0, noise: float = 0.3) -> tuple[Features, list[str]]:
    """Class tokens around three directions, with one patch each."""
    random = np.random.default_rng(seed)
    labels = np.arange(images) % 3
    tokens = np.eye(8, dtype=np.float32)[labels] + noise * random.standard_normal((images, 8)).astype(np.float32)
    return Features(np.stack([tokens, tokens], axis=1), (1, 1), tuple(map(str, range(images)))), [
        f"c{x}" for x in labels
    ]


def test_votes_are_weighted_by_the_softmax_of_the_cosine():
    """One near neighbour of class 0 outvotes two far ones of class 1: e^(1/0.07) against 2 e^(0.6/0.07)."""
    tokens = np.array([[1, 0], [1, 0], [0.6, 0.8], [0.6, -0.8]])
    assert knn_predictions(tokens, tokens, np.array([0, 0, 1, 1]), 3)[0] == 0
    assert knn_predictions(tokens, tokens, np.array([0, 1, 1, 1]), 3)[0] == 1


def test_a_query_never_finds_itself():
    tokens = np.eye(4)
    assert (knn_predictions(tokens, tokens, np.array([0, 1, 1, 1]), 1) == np.array([1, 0, 0, 0])).all()


def test_two_far_neighbours_outvote_one_that_is_hardly_nearer():
    tokens = np.array([[1, 0, 0], [0.95, 0.312, 0], [0.94, 0, 0.341], [0.94, 0, -0.341]])
    assert knn_predictions(tokens, tokens, np.array([0, 0, 1, 1]), 1)[0] == 0
    assert knn_predictions(tokens, tokens, np.array([0, 0, 1, 1]), 3)[0] == 1


@pytest.mark.parametrize(("lost", "gained", "expected"), [(0, 0, 1.0), (5, 0, 2 / 32), (8, 1, 20 / 512), (3, 3, 1.0)])
def test_mcnemar(lost, gained, expected):
    assert mcnemar(lost, gained) == pytest.approx(expected)


def test_the_interval_of_a_paired_drop_is_never_empty():
    none, some = paired_drop(0, 0, 100), paired_drop(12, 2, 100)
    assert none.value == 0
    assert none.low == pytest.approx(-0.0192, abs=1e-4)
    assert none.high == pytest.approx(0.0192, abs=1e-4)
    assert some.value == 0.1
    assert 0 < some.low < 0.1 < some.high


def test_equal_features_lose_nothing():
    features, labels = blobs(90)
    found = {(task.protocol, task.base): task for task in AccuracyJudge(features, labels).measure(features)}
    assert set(found) == {("knn10", "own"), ("knn20", "own"), ("knn20", "reference"), ("probe", "reference")}
    for task in found.values():
        assert (task.lost, task.gained, task.p_value, task.n, task.classes) == (0, 0, 1.0, 90, 3)
        assert task.reference.value == task.candidate.value > 0.9


def test_features_without_meaning_lose_the_accuracy_and_the_test_says_so():
    features, labels = blobs(90)
    random = np.random.default_rng(1).standard_normal(features.tokens.shape).astype(np.float32)
    judge = AccuracyJudge(features, labels)
    for task in judge.measure(Features(random, features.grid, features.names)):
        assert task.candidate.value < 0.6
        assert task.drop.low > 0.2
        assert task.p_value < 1e-6
    report = measure_drift(features, features, on_tasks=OnTasks(accuracy=judge.measure(features)))
    assert report.summary()["knn_drop"] == 0
    assert report.summary()["probe_accuracy"] > 0.9


@pytest.mark.parametrize(
    ("images", "classes", "words"), [(48, 3, "48 labelled images are too few"), (60, 1, "two are")]
)
def test_too_few_images_or_classes_are_refused(images, classes, words):
    features, labels = blobs(images)
    labels = labels if classes > 1 else ["same"] * images
    (task,) = AccuracyJudge(features, labels).measure(features)
    assert words in task.reason
    assert task.reference.value is None
    assert task.drop is None
    assert task.summary() == {}


def test_classes_of_a_few_images_are_left_out():
    features, labels = blobs(63)
    labels[:3] = ["rare"] * 3
    (*_, task) = AccuracyJudge(features, labels).measure(features)
    assert (task.n, task.classes) == (60, 3)
