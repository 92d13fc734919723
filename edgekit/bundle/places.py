"""Places of the machine that built: a bundle is made for upload, and keeps only the names of files and folders."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from html import escape
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

from edgekit.manifest import Manifest

T = TypeVar("T")


def places_in(manifest: Manifest, build: Path) -> dict[str, str]:
    """{absolute path: what is left of it} of all that a manifest says, of its own folder and of the user's home.

    Longer paths come first, so that none is left half replaced. Paths stand in HTML and in JSON as well, with their
    characters escaped.
    """
    found = {str(build.absolute()): build.absolute().name, str(build.resolve()): build.resolve().name}
    home = str(Path.home())
    if len(home) > 1:
        found[home] = "~"
    for text in _texts(manifest.model_dump(mode="json")):
        if _is_absolute(text):
            found[text] = PureWindowsPath(text).name or PurePosixPath(text).name
    found = {place: name for place, name in found.items() if len(place) > 1 and name}
    escaped = {escape(place): escape(name) for place, name in found.items()}
    quoted = {json.dumps(place)[1:-1]: json.dumps(name)[1:-1] for place, name in found.items()}
    every = found | escaped | quoted
    return dict(sorted(every.items(), key=lambda pair: (-len(pair[0]), pair[0])))


def without(value: T, places: Mapping[str, str]) -> T:
    """A text, or any structure of JSON, with names for places."""
    result: Any = value
    match value:
        case str():
            for place, name in places.items():
                result = _whole(place).sub(name.replace("\\", r"\\"), result)
        case dict():
            result = {key: without(inner, places) for key, inner in value.items()}
        case list() | tuple():
            result = type(value)(without(inner, places) for inner in value)
    return result


def names_place(text: str, places: Mapping[str, str]) -> str | None:
    """The first place that a text names, None where it names none."""
    return next((place for place in places if place in text and _whole(place).search(text)), None)


@cache
def _whole(place: str) -> re.Pattern[str]:
    """A path that neither goes on in its last name nor is a part of a word, as in pictures that are base64 text."""
    return re.compile(rf"(?<![A-Za-z0-9+=]){re.escape(place)}(?![A-Za-z0-9_-])")


def _is_absolute(text: str) -> bool:
    return PurePosixPath(text).is_absolute() or bool(PureWindowsPath(text).drive)


def _texts(value: object) -> list[str]:
    """All texts in a structure of JSON."""
    match value:
        case str():
            return [value]
        case dict():
            return [text for inner in value.values() for text in _texts(inner)]
        case list() | tuple():
            return [text for inner in value for text in _texts(inner)]
        case _:
            return []
