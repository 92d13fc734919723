"""Settings from files and plain values: one way to refuse them, which names the key, its value and the reason."""

from __future__ import annotations

import difflib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ValidationError

from edgekit.errors import DataError, RecipeError
from edgekit.files import read_text

MOST_THREADS = 1024  # of a runtime: more is a slip, and 100,000 never start
_MOST_FAULTS = 20  # named in one message
Model = TypeVar("Model", bound=BaseModel)


def _true_or_false(value: object) -> object:
    if not isinstance(value, bool):
        raise ValueError("a switch is true or false")
    return value


Switch = Annotated[bool, BeforeValidator(_true_or_false)]
"""A bool that no other value stands for: "off" in a recipe is refused, and not taken for one of the two."""


def validated(model: type[Model], values: dict[str, Any], problem: str, *, command: str) -> Model:
    """An instance of a model from plain values. Raises RecipeError with `problem` and each bad key of `command`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        bad = "; ".join(
            f"{'.'.join(str(part)[:80] for part in e['loc'])} = {_shown(e['input'])}: "
            + e["msg"].removeprefix("Value error, ")
            + (_nearest(model, str(e["loc"][-1])) if e["type"] == "extra_forbidden" and len(e["loc"]) == 1 else "")
            for e in error.errors()[:_MOST_FAULTS]
        )
        raise RecipeError(f"{problem}: {bad}", fix=f"edgekit {command} --help") from None


def _shown(value: object) -> str:
    """A value for a message."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deep, or a number of too many digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 200 else text[:200] + "..."


def _nearest(model: type[BaseModel], name: str) -> str:
    near = difflib.get_close_matches(name, model.model_fields, n=1)
    return f", did you mean {near[0]}?" if near else ""


def read_settings(path: Path) -> dict[str, Any]:
    """A .toml or .json file as a dictionary. Raises RecipeError: missing, damaged, or another suffix."""
    try:
        text = read_text(path)
        match path.suffix:
            case ".toml":
                return tomllib.loads(text)
            case ".json":
                values = json.loads(text)
                if isinstance(values, dict):
                    return values
                raise RecipeError(f"{path} holds a {type(values).__name__}, not an object of settings")
            case other:
                raise RecipeError(f"{path} has suffix {other!r}", why="settings are .toml or .json")
    except OSError as error:
        raise RecipeError(f"cannot read {path}", why=error.strerror or "") from None
    except DataError as error:
        raise RecipeError(error.what, why=error.why, fix=error.fix) from None
    except (ValueError, RecursionError) as error:  # of both parsers
        raise RecipeError(f"{path} is no valid {path.suffix.removeprefix('.').upper()}", why=str(error)) from None
