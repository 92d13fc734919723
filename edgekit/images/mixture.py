"""The sizes of calibration images for files that take any: half of them the main size, the others a ladder."""

from __future__ import annotations

from math import sqrt

from edgekit.artifact import Preprocess

Size = tuple[int, int]  # (height, width) in pixels

LEAST_MAIN = 4  # images of the main size, of which static ranges are verified
_ASPECTS = (1.0, 4 / 3, 3 / 2, 16 / 9, 1.0)  # of the rungs, longer side to shorter, upright and lying in turn
_MOST_PATCHES = 73  # of a side: 1022 pixels of 14. Larger images would cost more than all others together


def mixture(transform: Preprocess, samples: int) -> list[Size]:
    """The size of each calibration image, sizes well mixed so that the first few hold many.

    The rungs lie at equal ratios from the shortest to the longest side and share the other half of the images so that
    each has about as many patches in all, but at least one image: a plan then costs about what it costs at the main
    size, however large the range is.

    Args:
        transform: of the file, with `sides`.
        samples: number of images.
    """
    assert transform.sides is not None
    main = max(min(samples, LEAST_MAIN), -(-samples // 2))
    least, most = transform.sides[0], min(transform.sides[1], _MOST_PATCHES * transform.patch)
    sides = [least * (most / least) ** (rung / (len(_ASPECTS) - 1)) for rung in range(len(_ASPECTS))]
    left, counts = samples - main, [0] * len(sides)
    for rung in reversed(range(len(sides))):  # the largest first, which get one image each
        share = sides[rung] ** -2 / sum(side**-2 for side in sides[: rung + 1])
        counts[rung] = min(left, max(1, round(share * left))) if rung else left
        left -= counts[rung]
    turns = [((k + 0.5) / main, transform.input_size) for k in range(main)]
    for side, aspect, count in zip(sides, _ASPECTS, counts, strict=True):
        for k in range(count):
            ratio = sqrt(aspect if k % 2 else 1 / aspect)
            turns.append(((k + 0.5) / count, transform.nearest_size(side * ratio, side / ratio)))
    return [size for _, size in sorted(turns, key=lambda turn: turn[0])]
