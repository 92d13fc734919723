"""Label placement in a scatter: each label takes the nearest place that covers no label, no point and no line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import cos, hypot, pi, sin

HEIGHT = 15.0  # pixels of a label's line
_GAP = 10.0  # pixels from a point to a label without a leader line
_RING = 9.0  # pixels between two distances that are tried
_PASSES = 4  # in which labels move off leader lines
_ANGLES = tuple(2 * pi * step / 16 for step in range(16))  # to the right first: there a label reads best
_POINT = 8.0  # half the side of a point's square
_POINT_CROSSED, _LABEL_CROSSED = 60.0, 1000.0  # pixels of detour that a leader line makes rather than cross one

Point = tuple[float, float]
Line = tuple[Point, Point]


@dataclass(frozen=True)
class Box:
    """Rectangle in pixels; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def around(cls, centre: Point, width: float, height: float) -> Box:
        """The rectangle of this size about a point."""
        x, y = centre
        return cls(x - width / 2, y - height / 2, x + width / 2, y + height / 2)

    def overlaps(self, other: Box) -> bool:
        """Whether they share more than an edge."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def within(self, width: float, height: float) -> bool:
        """Whether it lies in a frame from (0, 0) to (width, height)."""
        return self.left >= 0 and self.top >= 0 and self.right <= width and self.bottom <= height

    def nearest(self, point: Point) -> Point:
        """Its point that is nearest to another."""
        return min(max(point[0], self.left), self.right), min(max(point[1], self.top), self.bottom)

    def meets(self, line: Line) -> bool:
        """Whether a line goes through its inside (Liang and Barsky 1984)."""
        (x, y), (x_end, y_end) = line
        enter, leave = 0.0, 1.0
        for start, step, low, high in ((x, x_end - x, self.left, self.right), (y, y_end - y, self.top, self.bottom)):
            if step == 0:
                if not low < start < high:
                    return False
                continue
            first, second = sorted(((low - start) / step, (high - start) / step))
            enter, leave = max(enter, first), min(leave, second)
        return enter < leave


@dataclass(frozen=True)
class Label:
    """Place of one label, and the line that leads to it from its point; None where it stands beside the point."""

    box: Box
    leader: Line | None


def place_labels(
    points: Sequence[Point],
    widths: Sequence[float],
    frame: tuple[float, float],
    taken: Iterable[Box] = (),
    lines: Iterable[Line] = (),
) -> list[Label | None]:
    """Places for labels, in the order of their importance; None where the frame has no free place left.

    Greedy over rings of candidates about each point, nearest first; then labels that lie on another's leader line move
    away. A place that covers something is never taken; a leader line that crosses a point or another line costs as
    much as a detour of 60 pixels, one across a label far more.

    Args:
        points: centres in pixels.
        widths: of the labels in pixels.
        frame: width and height that no label leaves.
        taken: rectangles that must stay free.
        lines: that no label may lie on.
    """
    scatter = _Scatter(points, widths, frame, tuple(taken), tuple(lines), [None] * len(points))
    for index in range(len(points)):
        scatter.place(index)
    for _ in range(_PASSES):
        in_the_way = scatter.in_the_way()
        for index in in_the_way:
            scatter.place(index)
        if not in_the_way:
            break
    return scatter.placed


@dataclass(frozen=True)
class _Scatter:
    points: Sequence[Point]
    widths: Sequence[float]
    frame: tuple[float, float]
    taken: tuple[Box, ...]
    lines: tuple[Line, ...]
    placed: list[Label | None]

    def place(self, own: int) -> None:
        """Give a label the cheapest place beside all others that have one."""
        point, others = self.points[own], [label for i, label in enumerate(self.placed) if label and i != own]
        boxes = [*self.taken, *(label.box for label in others)]
        lines = [*self.lines, *(label.leader for label in others if label.leader)]
        spots = [Box.around(spot, 2 * _POINT, 2 * _POINT) for spot in self.points]
        best, least = None, float("inf")
        for distance, box in _candidates(point, self.widths[own], hypot(*self.frame)):
            if distance >= least:
                break  # all further ones are dearer
            if not box.within(*self.frame) or any(box.overlaps(other) for other in (*boxes, *spots)):
                continue
            if any(box.meets(line) for line in lines):
                continue
            leader, cost = None, distance
            if distance > _GAP:
                leader = (point, box.nearest(point))
                cost += _LABEL_CROSSED * sum(other.meets(leader) for other in boxes)
                cost += _POINT_CROSSED * sum(spot.meets(leader) for i, spot in enumerate(spots) if i != own)
                cost += _POINT_CROSSED * sum(_cross(leader, line) for line in lines)
            if cost < least:
                best, least = Label(box, leader), cost
        self.placed[own] = best or self.placed[own]

    def in_the_way(self) -> list[int]:
        """Labels that lie on the leader line of another."""
        lines = [(i, label.leader) for i, label in enumerate(self.placed) if label and label.leader]
        return [
            own
            for own, label in enumerate(self.placed)
            if label and any(label.box.meets(line) for i, line in lines if i != own)
        ]


def _candidates(point: Point, width: float, farthest: float) -> Iterator[tuple[float, Box]]:
    """Distances from a point with rectangles at that distance in every direction, nearest first."""
    distance = _GAP
    while distance < farthest:
        for angle in _ANGLES:
            x = point[0] + cos(angle) * (distance + width / 2)
            y = point[1] + sin(angle) * (distance + HEIGHT / 2)
            yield distance, Box.around((x, y), width, HEIGHT)
        distance += _RING


def _cross(first: Line, second: Line) -> bool:
    """Whether two lines cross: the ends of each lie on both sides of the other."""
    return _side(*first, second[0]) * _side(*first, second[1]) < 0 > _side(*second, first[0]) * _side(*second, first[1])


def _side(start: Point, end: Point, point: Point) -> float:
    return (end[0] - start[0]) * (point[1] - start[1]) - (end[1] - start[1]) * (point[0] - start[0])
