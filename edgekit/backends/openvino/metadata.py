"""The manifest inside an IR: written into `rt_info`, and read back without a runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from edgekit.backends.metadata import manifest_text
from edgekit.errors import DataError

if TYPE_CHECKING:
    import openvino as ov

_PLACE = ["edgekit", "manifest"]  # in rt_info


def stamp(model: ov.Model, described: Mapping[str, object]) -> None:
    """Write the manifest into `rt_info`; a transform of an artifact stamps what it has become."""
    model.set_rt_info(manifest_text(described), _PLACE)


def stamped(path: Path) -> str | None:
    """The manifest in the `.xml` at `path`, None without one. Raises DataError when it is no XML."""
    try:
        found = ElementTree.parse(path).find("/".join(("rt_info", *_PLACE)))
    except ElementTree.ParseError as error:
        raise DataError(
            f"{path} is not a readable OpenVINO model", why=str(error), fix="edgekit export --format openvino --out OUT"
        ) from None
    return found.get("value") if found is not None else None
