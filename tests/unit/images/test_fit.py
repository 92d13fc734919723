"""The sizes at which whole pictures are run, in Python and in the samples of a bundle alike."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

import edgekit.bundle
from edgekit.artifact import Preprocess
from edgekit.bundle.hub import preprocessor_config
from edgekit.errors import DataError
from edgekit.images.fit import fitted
from edgekit.images.mixture import LEAST_MAIN, mixture
from edgekit.models.config import ARCHITECTURES

TRANSFORM = Preprocess.for_size(224, 224).model_copy(update={"sides": (112, 1022)})
SHORTEST = [  # the same in edgekit/bundle/templates/web/tests/preprocess.test.ts
    ((100, 150), (224, 336)),
    ((480, 640), (224, 294)),
    ((640, 480), (294, 224)),
    ((224, 231), (224, 224)),
    ((224, 245), (224, 252)),
]


@pytest.mark.parametrize(("picture", "size"), SHORTEST)
def test_the_shorter_side_becomes_the_files_own(picture: tuple[int, int], size: tuple[int, int]) -> None:
    assert fitted(picture, TRANSFORM, "shortest") == size


@pytest.mark.parametrize(
    ("picture", "size"),
    [((300, 400), (294, 406)), ((2044, 1022), (1022, 504)), ((50, 70), (112, 154)), ((224, 224), (224, 224))],
)
def test_the_aspect_ratio_is_kept_within_the_range(picture: tuple[int, int], size: tuple[int, int]) -> None:
    assert fitted(picture, TRANSFORM, "keep-aspect") == size


def test_what_cannot_be_taken_whole_names_the_nearest_size() -> None:
    with pytest.raises(DataError, match="224x1022"):
        fitted((100, 700), TRANSFORM, "shortest")
    with pytest.raises(DataError, match="112x1022"):
        fitted((10, 5000), TRANSFORM, "keep-aspect")
    with pytest.raises(DataError, match="294x406"):
        fitted((300, 400), TRANSFORM, "exact")


def test_cpp_takes_pictures_at_the_same_sizes(tmp_path: Path) -> None:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    import json

    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor_config(TRANSFORM)))
    program = r"""
    #include "picture.h"
    int main(int argc, char** argv) {
        const Transform t = read_transform(argv[1]);
        for (int i = 2; i < argc; i += 2) {
            Picture in{atoi(argv[i + 1]), atoi(argv[i]), {}};
            in.rgb.resize(size_t(3) * in.width * in.height);
            const Picture out = fitted(in, t);
            printf("%d %d\n", out.height, out.width);
        }
    }"""
    (tmp_path / "main.cpp").write_text(program)
    headers = Path(edgekit.bundle.__file__).parent / "templates" / "cpp"
    command = [compiler, "-std=c++17", "-O0", f"-I{headers}", str(tmp_path / "main.cpp"), "-o", str(tmp_path / "main")]
    subprocess.run(command, check=True)
    sides = [str(side) for picture, _ in SHORTEST for side in picture]
    told = subprocess.run([tmp_path / "main", tmp_path, *sides], check=True, capture_output=True, text=True).stdout
    assert told.splitlines() == [f"{height} {width}" for _, (height, width) in SHORTEST]


@pytest.mark.parametrize("arch", ["dinov2_vits14", "dinov3_vits16"])
@pytest.mark.parametrize("samples", [4, 8, 16, 64])
def test_calibration_mixes_sizes_at_the_cost_of_one(arch: str, samples: int) -> None:
    config = ARCHITECTURES[arch]
    sizes = mixture(config.preprocess(224, 224, sides=(112, 1022)), samples)
    assert len(sizes) == samples
    counts = Counter(sizes)
    assert counts[224, 224] >= max(LEAST_MAIN, samples // 2)
    assert all(112 <= side <= 1022 and side % config.patch == 0 for size in sizes for side in size)
    if samples == 64:
        assert len({height < width for height, width in sizes if height != width}) == 2  # upright and lying
        tokens = sum(config.tokens(*size) for size in sizes)
        assert tokens < 1.5 * samples * config.tokens(224, 224)
