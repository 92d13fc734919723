"""Licences that a checkpoint's folder or file states: its model card, its config.json, its LICENSE file, its header."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SPDX = {
    "apache-2.0": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "mit": "MIT",
    "cc-by-4.0": "CC-BY-4.0",
    "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "cc-by-nc-sa-4.0": "CC-BY-NC-SA-4.0",
    "bsd-3-clause": "BSD-3-Clause",
}
_TEXTS = (  # how the texts of licences begin
    ("Apache License", "Apache-2.0"),
    ("MIT License", "MIT"),
    ("Attribution-NonCommercial 4.0 International", "CC-BY-NC-4.0"),
    ("Attribution-NonCommercial-ShareAlike 4.0 International", "CC-BY-NC-SA-4.0"),
)
_MOST_READ = 65_536  # bytes of a card or licence
_MOST_NAMED = 200  # characters of a licence's name
_HEADER_KEYS = ("license", "licence", "modelspec.license")  # of safetensors files; the last is the ModelSpec standard
_FRONT_MATTER = re.compile(r"\A\s*---[ \t\r]*\n(.*?)\n---", re.DOTALL)
_LICENCE_LINE = re.compile(r"^license(_name)?:\s*['\"]?([^'\"\n#]+?)['\"]?\s*(?:#.*)?$", re.MULTILINE)


def licence_in_header(metadata: Mapping[str, str]) -> str:
    """The licence in the header of a safetensors file, "" where there is none."""
    return next((named(metadata[key]) for key in _HEADER_KEYS if metadata.get(key)), "")


def licence_in_folder(folder: Path, described: Mapping[str, Any]) -> str:
    """The licence that a folder states, "" where it does not.

    Args:
        folder: of a checkpoint.
        described: its config.json, {} without one.
    """
    pretrained = described.get("pretrained_cfg")  # timm's
    for values in (described, pretrained if isinstance(pretrained, Mapping) else {}):
        if isinstance(values.get("license"), str) and values["license"]:
            return named(values["license"])
    return _of_card(folder / "README.md") or next(
        (_of_text(path) for path in sorted(folder.glob("LICEN[CS]E*")) if path.is_file()), ""
    )


def named(text: str) -> str:
    """The SPDX name where it is one of the usual, else what is written there."""
    text = text[: 2 * _MOST_NAMED].strip()[:_MOST_NAMED]
    return _SPDX.get(text.lower(), text)


def _of_card(path: Path) -> str:
    """`license` of the front matter; the `license_name` of an "other"."""
    front = _FRONT_MATTER.match(_head(path))
    found = {bool(name): value for name, value in _LICENCE_LINE.findall(front.group(1))} if front else {}
    plain = found.get(False, "")
    return named(found.get(True, plain) if plain.lower() in ("", "other") else plain)


def _of_text(path: Path) -> str:
    head = _head(path)[:400]
    if not head:
        return ""
    return next((name for start, name in _TEXTS if start in head), f"see {path.name} of its folder")


def _head(path: Path) -> str:
    """The beginning of a text; "" of what is no regular file, or cannot be read."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as stream:
            return stream.read(_MOST_READ).decode("utf-8", "replace")
    except OSError:
        return ""
