"""`edgekit recipes`: the recipes that come with edgekit, to build from or to begin one's own with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import options


def recipes(
    name: Annotated[str | None, typer.Argument(help="A recipe: prints its file, to copy and to change.")] = None,
    *,
    as_json: options.Json = False,
) -> None:
    """The recipes that come with edgekit; `edgekit build --recipe NAME` builds one."""
    from edgekit.errors import RecipeError
    from edgekit.recipe import Recipe, shipped_recipes

    files = shipped_recipes()
    if name is not None and name not in files:
        raise RecipeError(f"no recipe is called {name!r}", why=f"there are {', '.join(files)}", fix="edgekit recipes")
    chosen = files if name is None else {name: files[name]}
    made = {each: Recipe.from_toml(path) for each, path in chosen.items()}
    if as_json:
        told = {
            each: {"about": _about(chosen[each]), "file": str(chosen[each]), **recipe.model_dump(mode="json")}
            for each, recipe in made.items()
        }
        print(json.dumps(told, indent=2))
        return
    if name is not None:
        print(chosen[name].read_text(encoding="utf-8"), end="")
        return
    from edgekit.cli.show import terminal
    from edgekit.report.tables import Table

    rows = [
        (each, _about(chosen[each]), recipe.model, ", ".join(recipe.formats), ", ".join(recipe.precisions))
        for each, recipe in made.items()
    ]
    columns = ("recipe", "what for", "model", "formats", "precisions")
    terminal().print(Table(columns, tuple(rows), words=columns, unbroken=("recipe", "model")))


def _about(path: Path) -> str:
    """The first sentence of the comment that a recipe begins with."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines).partition(". ")[0].rstrip(".")
