"""The flags -v and -q, which every command takes, and what they were set to."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal

import typer

Level = Literal["quiet", "normal", "verbose"]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no notes: results and errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="A line for every stage of the work.")]

_level: Level = "normal"


def level() -> Level:
    """Verbosity of the command that runs."""
    return _level


def set_level(wanted: Level) -> None:
    """Set it for the rest of the command."""
    global _level  # noqa: PLW0603 - one command runs at a time, and its output is one
    _level = wanted


def choose(quiet: bool, verbose: bool) -> None:
    """Set what flags ask for; neither leaves what was set before. Raises RecipeError for both."""
    if quiet and verbose:
        from edgekit.errors import RecipeError

        raise RecipeError("--quiet and --verbose contradict each other", fix="leave one out")
    if quiet or verbose:
        set_level("quiet" if quiet else "verbose")


def with_verbosity(command: Callable[..., None]) -> Callable[..., None]:
    """The command with -v and -q added to its parameters."""

    @functools.wraps(command)
    def run(*given: Any, verbose: bool = False, quiet: bool = False, **named: Any) -> None:
        choose(quiet, verbose)
        command(*given, **named)

    signature, hints = inspect.signature(command), typing.get_type_hints(command, include_extras=True)
    own = [each.replace(annotation=hints[name]) for name, each in signature.parameters.items()]
    flags = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in (("verbose", Verbose), ("quiet", Quiet))
    ]
    run.__signature__ = signature.replace(parameters=[*own, *flags])  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in (*own, *flags)}
    return run
