"""`edgekit join` on a tiny build: one package, two sizes, both measured."""

from __future__ import annotations

import json

import pytest

import edgekit
from edgekit.cli import main
from edgekit.pipeline import build

pytest.importorskip("coremltools")


def test_one_package_for_two_sizes(recipe, tmp_path, capsys):
    build(recipe, tmp_path / "out", measure="none")
    words = [
        "join",
        str(tmp_path / "out"),
        "--to",
        str(tmp_path / "tiny.mlpackage"),
        "--precision",
        "w8a8",
        "--samples",
        "2",
        "--json",
    ]
    assert main([*words, "--image-size", "70"]) == 1
    assert "1 image sizes cannot be joined" in capsys.readouterr().out
    assert main([*words, "--image-size", "70,84x56"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [row["function"] for row in said["functions"]] == ["size_70x70", "size_84x56"]
    assert all(row["cls_cosine_mean"] > 0.99 for row in said["functions"])
    assert edgekit.load(tmp_path / "tiny.mlpackage").artifact.preprocess.input_size == (70, 70)
