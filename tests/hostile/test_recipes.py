"""Recipes with impossible values, and files that are no recipes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli.options import heads_of, sizes_of, words_of
from edgekit.pipeline.preflight import located
from edgekit.recipe import Recipe
from tests.support.hostile import refused

_NAN, _INF = float("nan"), float("inf")
_VALUES: list[tuple[str, Any]] = [
    *[("quantize.group_size", value) for value in (0, -1, -32, 33, 48, 8, 1_000_000, 2.5, "32x", [], True, 10**30)],
    *[("quantize.max_drop", value) for value in (_NAN, _INF, -_INF, -5, 1.5, "x", [])],
    *[("quantize.weight_bits", value) for value in (0, -8, 9, _NAN, _INF, "eight", None, 10**30, [8])],
    *[("quantize.promote", value) for value in (-1, 4, 10**9, 1.5, "x")],
    *[("quantize.level", value) for value in ("bogus", "", None, 1)],
    *[("seed", value) for value in (-1, 2**32, 10**30, 1.5, "x", None, _NAN)],
    *[("calibration.samples", value) for value in (0, -1, 10**9, 1.5, _NAN, "x", None)],
    *[("evaluation_samples", value) for value in (0, -1, 10**9, _NAN)],
    *[
        ("image_size", value)
        for value in (
            [],
            [[0, 0]],
            [[-14, -14]],
            [[15, 15]],
            [[14, 10**400]],
            [[14_000, 14_000]],
            [[10**9, 10**9]],
            [[224]],
            [[224, 224, 224]],
            224,
            "224",
            [["a", "b"]],
            [[14.5, 14]],
            [[_NAN, _NAN]],
            None,
        )
    ],
    *[("formats", value) for value in (["tensorrt"], "onnx", [5], None)],
    *[("precisions", value) for value in (["w2"], [8], None)],
    *[("model", value) for value in (5, None, [], {})],
    *[("heads", value) for value in ([], "x", {"a": 5}, {"a": None})],
    *[("nncf.smooth_quant_alpha", value) for value in (2, -2, _NAN, "x")],
    *[("coreml.target", value) for value in ("iOS16", "", None)],
    ("unknown", 1),
    ("quantize.unknown", 1),
    ("quantize", 5),
    ("quantize", []),
    ("calibration", "folder"),
]


@pytest.mark.parametrize(("key", "value"), _VALUES, ids=lambda value: str(value)[:24])
def test_a_value_that_cannot_be_is_refused(key: str, value: Any) -> None:
    values: Any = value
    for part in reversed(key.split(".")):
        values = {part: values}
    refused(lambda: located(Recipe.make(values)))  # some sizes only the model refuses


_TEXTS = {
    "empty json": (".json", b""),
    "list": (".json", b"[]"),
    "null": (".json", b"null"),
    "deep json": (".json", b"[" * 200_000),
    "deep object": (".json", b'{"a":' * 200_000),
    "deep toml": (".toml", b"a = " + b"[" * 5000),
    "deep table": (".toml", b"[" + b".".join([b"a"] * 5000) + b"]\nb = 1"),
    "no toml": (".toml", b"a = = b"),
    "no utf-8": (".toml", b"model = '\xff'"),
    "nul": (".toml", b"\0"),
    "5000 digits": (".toml", b"seed = " + b"9" * 5000),
    "5000 digits of json": (".json", b'{"seed": ' + b"9" * 5000 + b"}"),
    "twice": (".toml", b"seed = 1\nseed = 2"),
    "another suffix": (".yaml", b"seed: 1"),
    "no suffix": ("", b"seed = 1"),
    "large": (".toml", b"#" * 65_000_000),
}


@pytest.mark.parametrize("case", _TEXTS)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, case: str) -> None:
    suffix, data = _TEXTS[case]
    (tmp_path / f"recipe{suffix}").write_bytes(data)
    refused(lambda: Recipe.from_toml(tmp_path / f"recipe{suffix}"))


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "loop", "/dev/zero", "/proc/self/mem"])
def test_what_is_no_regular_file_is_no_recipe(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "recipe.toml"
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "loop":
            path.symlink_to(path)
        case "missing":
            pass
        case device:
            path.symlink_to(device)
    refused(lambda: Recipe.from_toml(path))


@pytest.mark.parametrize(
    "text",
    ["", "0", "-14", "15", "9" * 400, "9" * 5000, "224x", "x224", "224x224x224", "a", "２２４x", "²", "1e3", "14000"],
)
def test_a_size_in_words_that_cannot_be_is_refused(text: str) -> None:
    refused(lambda: located(Recipe.make({"image_size": sizes_of(text)})))


@pytest.mark.parametrize("text", ["", ",", " ", " , ,"])
def test_a_flag_of_no_words_is_refused(text: str) -> None:
    refused(lambda: words_of(text))


@pytest.mark.parametrize("text", ["a", "=", "a=", "=b", "a=b,a=c", "", ","])
def test_heads_in_words_that_cannot_be_are_refused(text: str) -> None:
    refused(lambda: heads_of(text))
