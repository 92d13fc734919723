"""The web template agrees with Python: preprocessing images, limits, columns, pinned packages. Its code runs in e2e."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from edgekit.artifact import Preprocess
from edgekit.images import preprocess
from edgekit.precision import FACTS

ROOT = Path(__file__).parents[3]
WEB = ROOT / "edgekit/bundle/templates/web"
CASES = WEB / "tests/preprocess.safetensors"

# name -> (width, height) of the image, (height, width) of the crop
SIZES = {
    "wide": ((71, 43), (14, 14)),
    "tall": ((33, 97), (28, 28)),
    "small": ((5, 9), (14, 14)),
    "large": ((75, 70), (14, 14)),
    "one_row": ((21, 1), (14, 14)),
    "no_resize": ((32, 45), (28, 28)),
    "rectangle": ((50, 64), (28, 56)),
}


def preprocessing_cases() -> dict[str, np.ndarray]:
    """NAME.image (H, W, 3) uint8, with edges and noise, and NAME.pixel_values (3, h, w) float32 of each."""
    generator = np.random.default_rng(0)
    cases: dict[str, np.ndarray] = {}
    for name, ((width, height), crop) in SIZES.items():
        noise = generator.integers(0, 256, (height, width, 3), np.uint8)
        stripes = np.indices((height, width)).sum(0)[..., None] // 5 % 2 * np.uint8(255)  # overshoot is clipped
        image = np.where(generator.random((height, width, 1)) < 0.5, noise, stripes).astype(np.uint8)
        cases[f"{name}.image"] = image
        cases[f"{name}.pixel_values"] = preprocess(Image.fromarray(image), Preprocess.for_size(*crop))
    return cases


def test_the_images_that_the_page_is_tested_with_are_what_python_computes() -> None:
    stored, computed = load_file(CASES), preprocessing_cases()
    assert stored.keys() == computed.keys()
    for name, values in computed.items():
        if name.startswith("tall.") and int(PIL.__version__.split(".")[0]) < 13:
            continue  # Pillow 13 shrinks the height of tall images first: other roundings
        np.testing.assert_array_equal(stored[name], values, err_msg=name)


def test_the_page_has_the_limits_of_the_golden_check() -> None:
    literal = re.search(r"LEAST_COSINE[^{]*\{([^}]*)\}", (WEB / "src/golden.ts").read_text())
    assert literal
    limits = dict(re.findall(r"(\w+): ([\d.]+)", literal[1]))
    assert {name: float(value) for name, value in limits.items()} == {
        name: facts.least_cosine for name, facts in FACTS.items()
    }


def test_latency_rows_have_the_columns_of_the_benchmark() -> None:
    row = re.search(r"class Row:(.*?)@property", (ROOT / "benchmarks/support/matrix.py").read_text(), re.DOTALL)
    interface = re.search(r"interface Row \{(.*?)\}", (WEB / "src/benchmark.ts").read_text(), re.DOTALL)
    assert row
    assert interface
    columns = re.findall(r"^    (\w+):", row[1], re.MULTILINE)
    assert set(re.findall(r"^\s*(\w+):", interface[1], re.MULTILINE)) <= set(columns)


@pytest.mark.parametrize("folder", [WEB, WEB / "node"], ids=lambda folder: folder.name)
def test_packages_are_pinned_and_come_from_no_named_host(folder: Path) -> None:
    package = json.loads((folder / "package.json").read_text())
    versions = {**package.get("dependencies", {}), **package.get("devDependencies", {})}
    assert versions
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in versions.values()), versions
    lock = (folder / "package-lock.json").read_text()
    assert '"resolved": "http' not in lock
    assert json.loads(lock)["packages"][""].get("dependencies", {}) == package.get("dependencies", {})


def test_the_page_asks_no_other_host() -> None:
    sources = [WEB / "index.html", *WEB.glob("src/*")]
    hosts = {host for path in sources for host in re.findall(r"https?://([\w.]+)", path.read_text())}
    assert hosts <= {"www.w3.org"}  # the namespace of the icon


if __name__ == "__main__":  # python -m tests.unit.test_bundle_web writes the images anew
    save_file(preprocessing_cases(), CASES)
