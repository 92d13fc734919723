"""Placement of labels: no two cover each other, however crowded the points are."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from edgekit.report.labels import Box, Label, place_labels

FRAME = (860.0, 380.0)
WIDTH = 120.0  # of "openvino/w8a8_fused"


def crowd(count: int) -> list[tuple[float, float]]:
    """Points in a cluster of 60 by 40 pixels."""
    generator = np.random.default_rng(0)
    return [(300 + 60 * x, 200 + 40 * y) for x, y in generator.random((count, 2)).tolist()]


def placed(points: list[tuple[float, float]], **values: object) -> list[Label]:
    found = place_labels(points, [WIDTH] * len(points), FRAME, **values)  # type: ignore[arg-type]
    assert all(found)
    return [label for label in found if label]


@pytest.mark.parametrize("count", [2, 12, 40])
def test_no_two_labels_of_a_crowd_overlap(count):
    points = crowd(count)
    labels = placed(points)
    assert not any(one.box.overlaps(other.box) for one, other in combinations(labels, 2))
    assert not any(label.box.overlaps(Box.around(point, 16, 16)) for label in labels for point in points)
    assert all(label.box.within(*FRAME) for label in labels)
    assert sum(label.leader is not None for label in labels) >= count - 10  # so many have no room beside their points


def test_no_label_lies_on_a_leader_line_of_another():
    labels = placed(crowd(25))
    assert not any(one.leader and other.box.meets(one.leader) for one in labels for other in labels if one is not other)


def test_a_leader_line_leads_from_the_point_to_its_label():
    points = crowd(25)
    for point, label in zip(points, placed(points), strict=True):
        if label.leader:
            start, end = label.leader
            assert start == point
            assert label.box.nearest(point) == end


def test_a_lonely_point_has_its_label_on_the_right_and_none_outside_the_frame():
    (free,) = placed([(400.0, 200.0)])
    assert free.leader is None
    assert free.box.left > 400
    (cornered,) = placed([(855.0, 2.0)])
    assert cornered.box.within(*FRAME)
    assert not cornered.box.overlaps(Box.around((855.0, 2.0), 16, 16))


def test_what_is_taken_stays_free():
    taken = Box(0, 0, 860, 300)
    (label,) = placed([(400.0, 200.0)], taken=[taken])
    assert not label.box.overlaps(taken)


def test_without_room_there_is_no_label():
    assert place_labels([(50.0, 50.0)], [WIDTH], (100.0, 100.0)) == [None]


def test_the_first_point_gets_the_best_place():
    alone, *_ = placed([(400.0, 200.0)])
    first, second = placed([(400.0, 200.0), (400.0, 200.0)])
    assert first == alone
    assert second.leader is None  # as near, on another side
    assert not second.box.overlaps(first.box)


@pytest.mark.parametrize(
    ("line", "met"),
    [
        (((0, 5), (20, 5)), True),
        (((0, 0), (20, 20)), True),
        (((0, 5), (4, 5)), False),
        (((0, 10), (20, 10)), False),  # along the edge
        (((12, 0), (12, 20)), False),
    ],
)
def test_a_line_meets_a_box(line, met):
    assert Box(5, 0, 10, 10).meets(line) is met


def test_no_label_lies_on_a_line_that_is_given():
    lines = [((400.0, 200.0), (860.0, 200.0)), ((400.0, 0.0), (400.0, 200.0))]
    (label,) = placed([(400.0, 200.0)], lines=lines)
    assert not any(label.box.meets(line) for line in lines)
