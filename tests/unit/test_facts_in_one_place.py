"""Names of precisions and formats stand in their tables and in the backends; everyone else asks."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

from edgekit.artifact import FORMATS
from edgekit.precision import FACTS, VARIANTS, Precision, Variant

PACKAGE = Path(__file__).parents[2] / "edgekit"

HOMES = ("precision.py", "artifact.py", "backends/", "bundle/platforms.py", "bundle/templates/")

ALLOWED = {
    "cli/join.py": {"fp16"},  # the default of a flag of Core ML alone
    "native/openvino_library.py": {"openvino"},  # the Python package, and the folder of the extension's source
    "recipe.py": {"coreml"},  # the name of a field
}
"""Modules outside the homes that name a precision or a format: this may only shrink."""


NAMED = frozenset(FORMATS) - {"edgekit"}  # which is the name of the package, of its engine and of its ops' domain, too


def names_in(path: Path) -> set[str]:
    """Strings of a module that are a precision or a format, or an artifact's name such as "onnx/w8a8"."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            first, slash, rest = node.value.partition("/")
            artifact = first in NAMED and slash and " " not in rest and "." not in rest
            if node.value in NAMED or node.value in FACTS or artifact:
                found.add(node.value)
    return found


def test_names_of_precisions_and_formats_stand_in_their_homes_alone() -> None:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith(HOMES) and (names := names_in(path)):
            found[name] = names
    assert found == ALLOWED


def test_every_precision_and_variant_has_its_row() -> None:
    assert tuple(FACTS) == get_args(Precision)
    assert set(VARIANTS) == set(get_args(Variant))
