"""Pictures that are resized whole, in the samples of a bundle: the bytes of Python's preprocessing."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.artifact import Preprocess, WholeImage
from edgekit.bundle.hub import preprocessor_config
from edgekit.bundle.platforms import TEMPLATES
from edgekit.images.preprocess import preprocess, to_pixels

SIZE = (56, 84)
TRANSFORM = Preprocess.for_size(*SIZE).model_copy(update={"whole_image": WholeImage()})
SHAPES = [(90, 60), (31, 200), (84, 56)]  # (width, height)

CPP = """
#include "picture.h"
int main(int, char** arguments) {
    const Picture crop = cropped(read_ppm(arguments[2]), read_transform(arguments[1]));
    std::ofstream file(arguments[3], std::ios::binary);
    file.write(reinterpret_cast<const char*>(crop.rgb.data()), crop.rgb.size());
}
"""
JAVASCRIPT = """
import { readFileSync, writeFileSync } from 'node:fs';
import { crop } from './preprocess.ts';
const [transform, width, height, picture, target] = process.argv.slice(2);
const data = new Uint8Array(readFileSync(picture));
writeFileSync(target, crop({ data, width: +width, height: +height }, JSON.parse(transform)).data);
"""


def photos(folder: Path) -> list[tuple[Image.Image, np.ndarray]]:
    """Pictures as .ppm and as plain bytes, each with the crop that Python makes of it."""
    found = []
    for i, (width, height) in enumerate(SHAPES):
        pixels = np.random.default_rng(i).integers(0, 256, (height, width, 3), np.uint8)
        picture = Image.fromarray(pixels)
        picture.save(folder / f"{i}.ppm")
        (folder / f"{i}.rgb").write_bytes(pixels.tobytes())
        found.append((picture, to_pixels(preprocess(picture, TRANSFORM), TRANSFORM)))
    return found


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_cpp_makes_the_bytes_of_python(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor_config(TRANSFORM), indent=2))
    (tmp_path / "main.cpp").write_text(CPP)
    program = tmp_path / "main"
    command = ["g++", "-std=c++17", "-I", str(TEMPLATES / "cpp"), str(tmp_path / "main.cpp"), "-o", str(program)]
    subprocess.run(command, check=True)
    for i, (_, expected) in enumerate(photos(tmp_path)):
        subprocess.run([program, tmp_path, tmp_path / f"{i}.ppm", tmp_path / "crop"], check=True)
        assert (tmp_path / "crop").read_bytes() == expected.tobytes()


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_typescript_makes_the_bytes_of_python(tmp_path: Path) -> None:
    major, minor, *_ = (int(part) for part in _output("node", "--version").strip("v").split("."))
    if (major, minor) < (22, 6):
        pytest.skip("needs a Node.js that strips types, 22.6 or later")
    for name in ("preprocess", "resample"):
        text = (TEMPLATES / f"web/src/{name}.ts").read_text().replace("'./resample'", "'./resample.ts'")
        (tmp_path / f"{name}.ts").write_text(text)
    (tmp_path / "main.mjs").write_text(JAVASCRIPT)
    for i, (picture, expected) in enumerate(photos(tmp_path)):
        sides = str(picture.width), str(picture.height)
        files = str(tmp_path / f"{i}.rgb"), str(tmp_path / "crop")
        script = str(tmp_path / "main.mjs")
        _output("node", "--experimental-strip-types", script, TRANSFORM.model_dump_json(), *sides, *files)
        assert (tmp_path / "crop").read_bytes() == expected.tobytes()


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_kotlin_and_swift_know_the_field() -> None:
    """No compiler of theirs runs here; their arithmetic is the resize that the crop uses too."""
    kotlin = (TEMPLATES / "android/core/src/main/kotlin/edgekit/Transform.kt").read_text()
    assert "if (shortestEdge == null) return picture.resized(width, height)" in kotlin
    swift = (TEMPLATES / "ios/Sources/EdgekitCore/Transform.swift").read_text()
    assert 'wholeImage = "whole_image"' in swift
    assert "if wholeImage != nil { return picture.resized(toWidth: width, toHeight: height) }" in swift
