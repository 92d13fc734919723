"""The manifest that every artifact carries in its own file's metadata: an Artifact without path, digest and size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from edgekit.artifact import Artifact
from edgekit.errors import DataError
from edgekit.files import sha256_of, size_mb_of

MANIFEST_KEY = "edgekit.manifest"  # under which formats with flat metadata store it
_OF_THE_FILE = {"path", "sha256", "size_mb"}  # known only once it is written


def manifest_text(fields: Mapping[str, object]) -> str:
    """The manifest as JSON, the same bytes for the same fields.

    Args:
        fields: those of an `Artifact` in JSON's types; what describes the file itself is left out.
    """
    return json.dumps({key: value for key, value in fields.items() if key not in _OF_THE_FILE}, sort_keys=True)


def artifact_from(path: Path, text: str | None) -> Artifact:
    """The artifact at `path` from the manifest found in it.

    Raises:
        DataError: there is no manifest, or it is not one that this edgekit reads.
    """
    try:
        if text is None:
            raise KeyError("it has no manifest")
        whole = json.loads(text) | {"path": path, "sha256": sha256_of(path), "size_mb": size_mb_of(path)}
        return Artifact.model_validate(whole)
    except (KeyError, TypeError, ValueError, RecursionError, ValidationError) as error:
        why = error.args[0] if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise DataError(f"{path} was not written by edgekit", why=why, fix="edgekit build --out OUT") from None
