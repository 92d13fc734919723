"""The layers of docs/architecture.md: imports point down, nothing goes round in a circle, no package is too large."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.documents import layers

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "edgekit"

LAYERS = (
    *(
        frozenset(f"edgekit.{name}" for name in layer)
        for layer in layers((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
    ),
    frozenset({"edgekit.__main__"}),
)
"""Lowest first, from the page. A module may import its own package and the layers below it."""

LOOSE = frozenset(unit for layer in LAYERS for unit in layer if (PACKAGE / f"{unit.partition('.')[2]}.py").is_file())
"""Single modules, which may import others of their own layer."""


LOADER = re.compile(r"^(edgekit(?:\.\w+)+):\w+$")  # "module:name", imported by its string


def modules() -> dict[str, Path]:
    """Every module of the package by name; of a package its `__init__`."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports_of(name: str) -> Iterator[str]:
    """Modules of edgekit that a module imports anywhere in it, by statement, under TYPE_CHECKING or by string."""
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        match node:
            case ast.ImportFrom(module=str(module), names=names) if module.split(".")[0] == "edgekit":
                for alias in names:
                    yield f"{module}.{alias.name}" if f"{module}.{alias.name}" in MODULES else module
            case ast.Import(names=names):
                yield from (alias.name for alias in names if alias.name.split(".")[0] == "edgekit")
            case ast.Constant(value=str(text)) if found := LOADER.match(text):
                yield found[1]


def unit_of(module: str) -> str:
    """The package, or loose module, that a module belongs to: an entry of `LAYERS`."""
    for layer in LAYERS:
        for unit in layer:
            if unit.count(".") == 2 and (module == unit or module.startswith(f"{unit}.")):
                return unit
    return ".".join(module.split(".")[:2])


def level_of(unit: str) -> int:
    """The number of a unit's layer, counted from the lowest."""
    return next(level for level, layer in enumerate(LAYERS) if unit in layer)


def test_every_package_has_a_layer() -> None:
    known = frozenset().union(*LAYERS) | {"edgekit"}
    assert {unit_of(module) for module in MODULES} <= known


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name not in ("edgekit",)))
def test_imports_point_down(module: str) -> None:
    own = unit_of(module)
    for imported in imports_of(module):
        other = unit_of(imported)
        if other in (own, "edgekit") or (own in LOOSE and other in LOOSE and level_of(other) == level_of(own)):
            continue
        assert level_of(other) < level_of(own), f"{module} imports {imported}"


def test_no_module_imports_itself_through_others() -> None:
    graph = {name: set(imports_of(name)) - {name, "edgekit"} for name in MODULES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in sorted(graph.get(name, ())):
                visit(other, (*path, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_no_folder_is_flat_and_long() -> None:
    folders = {path.parent for path in MODULES.values()}
    counts = {folder: len(list(folder.glob("*.py"))) for folder in folders}
    assert {str(folder): count for folder, count in counts.items() if count > 22} == {}
