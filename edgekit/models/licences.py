"""Licences that a checkpoint's folder or file states: its model card, its config.json, its LICENSE file, its header."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.errors import DataError
from edgekit.files import read_text

DINOV3 = "DINOv3-License"
FAIR = "FAIR-Noncommercial"
SHIPPED = ("Apache-2.0", "MIT", "CC-BY-NC-4.0")  # whose texts a bundle can be given without the checkpoint's own
_SPDX = {
    "apache-2.0": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "mit": "MIT",
    "cc-by-4.0": "CC-BY-4.0",
    "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "cc-by-nc-sa-4.0": "CC-BY-NC-SA-4.0",
    "bsd-3-clause": "BSD-3-Clause",
    "dinov3-license": DINOV3,
    "fair-noncommercial-research-license": FAIR,
}
_TEXTS = (  # how the texts of licences begin
    ("Apache License", "Apache-2.0"),
    ("MIT License", "MIT"),
    ("DINOv3 License", DINOV3),
    ("FAIR Noncommercial Research License", FAIR),
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
    return _of_card(folder / "README.md") or licence_of_text(folder)[0]


def licence_of_text(folder: Path) -> tuple[str, str]:
    """Name and whole text of the licence that lies in a folder, ("", "") where none does.

    Raises:
        DataError: its file is longer than any licence, or is not UTF-8.
    """
    for path in sorted(folder.glob("LICEN[CS]E*")):
        if path.is_file():
            return _of_text(path), read_text(path)
    return "", ""


def require_text(path: Path, licence: str, text: str) -> None:
    """Refuse weights of the DINOv3 family whose licence is not known or has to go with every copy, and does not.

    Raises:
        DataError: there is no text, and none that edgekit has is meant.
    """
    if text or licence in SHIPPED:
        return
    raise DataError(
        f"{path} comes without its licence",
        why="whatever is made of DINOv3's weights may only be passed on with a copy of the DINOv3 License",
        fix=f"put the LICENSE.md of the place where you accepted it into {path if path.is_dir() else path.parent}",
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
