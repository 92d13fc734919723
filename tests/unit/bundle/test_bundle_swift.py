"""The Swift package agrees with Python as far as that shows without a Mac: it parses, its limits and names are ours."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgekit.artifact import INPUT_NAME, OUTPUT_NAMES, Preprocess
from edgekit.backends.coreml.backend import CoreMlBackend
from edgekit.bundle.platforms import TEMPLATES
from edgekit.measure import golden
from edgekit.precision import FACTS

IOS = TEMPLATES / "ios"
SOURCES = sorted(IOS.rglob("*.swift"))


def syntax_errors(code: bytes) -> list[str]:
    """What tree-sitter's grammar of Swift does not understand, by line."""
    import tree_sitter_swift
    from tree_sitter import Language, Parser

    waiting, found = [Parser(Language(tree_sitter_swift.language())).parse(code).root_node], []
    while waiting:
        node = waiting.pop()
        if node.is_error or node.is_missing:
            found.append(f"line {node.start_point.row + 1}: {(node.text or b'').decode()[:60]!r}")
        waiting += node.children
    return found


def test_every_target_of_the_package_has_its_files() -> None:
    manifest = (IOS / "Package.swift").read_text()
    for kind, name in re.findall(r"\.(target|executableTarget|testTarget)\(name: \"(\w+)\"", manifest):
        folder = IOS / ("Tests" if kind == "testTarget" else "Sources") / name
        assert list(folder.glob("*.swift")), folder


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_it_parses(path: Path) -> None:
    code = path.read_bytes()
    assert syntax_errors(code) == []
    assert syntax_errors(code.rstrip()[:-1])  # without its last bracket: the grammar does see an error


def test_limits_and_names_are_those_of_python() -> None:
    code = (IOS / "Sources/EdgekitCore/Golden.swift").read_text()
    literal = re.search(r"leastCosine = \[([^]]*)\]", code)
    assert literal
    limits = {name: float(value) for name, value in re.findall(r'"(\w+)": ([\d.]+)', literal[1])}
    assert limits == {name: facts.least_cosine for name, facts in FACTS.items()}
    for name in (golden.INPUTS, golden.OUTPUTS):
        assert f'"{name}"' in code
    embedder = (IOS / "Sources/Edgekit/Embedder.swift").read_text()
    for name in (INPUT_NAME, OUTPUT_NAMES[1]):
        assert f'"{name}"' in embedder


def test_the_transform_reads_fields_that_the_manifest_has() -> None:
    code = (IOS / "Sources/EdgekitCore/Transform.swift").read_text()
    keys = re.search(r"case (.*)\n", code[code.index("enum CodingKeys") :])
    assert keys
    names = {word.split("=")[-1].strip(' "') for word in keys[1].split(",")}
    assert names <= Preprocess.model_fields.keys()
    assert {"input_size", "resize", "mean", "std", "normalize", "whole_image"} == names


def test_the_package_asks_for_the_systems_that_the_models_need() -> None:
    target = CoreMlBackend().target
    assert f".{target.replace('iOS', 'iOS(.v')})" in (IOS / "Package.swift").read_text()
