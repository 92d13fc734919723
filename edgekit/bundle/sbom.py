"""CycloneDX 1.6 software bill of materials of a bundle: weights, files and tools, with hashes and licences.

cyclonedx-python-lib has no `modelCard` and no machine-learning fields beyond the type; the document is small enough to
be written out, and a test validates it against the published schema.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

from edgekit import __version__
from edgekit.manifest import ArtifactRow, Manifest

_SPDX = {"Apache-2.0", "MIT", "CC-BY-NC-4.0"}
_NAMESPACE = uuid.UUID("6f1d3c0e-5f0a-5d57-9a3e-2f1f6f0f2a10")  # any fixed one: equal bundles get equal serial numbers


def sbom(manifest: Manifest, digests: dict[str, str]) -> dict[str, Any]:
    """The document as JSON data.

    Args:
        manifest: of the bundle.
        digests: SHA-256 of each file by its path in the bundle.
    """
    model = manifest.model
    files = [_file(path, digest) for path, digest in sorted(digests.items())]
    text = "\n".join(f"{path} {digest}" for path, digest in sorted(digests.items()))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, text)}",
        "version": 1,
        "metadata": {"tools": {"components": _tools(manifest.artifacts)}, "component": _model(model, "bundle")},
        "components": [_model(model, "weights") | {"hashes": [_sha256(model["sha256"])]}, *files],
        "dependencies": [{"ref": "bundle", "dependsOn": ["weights", *(file["bom-ref"] for file in files)]}],
    }


def _model(model: dict[str, Any], reference: str) -> dict[str, Any]:
    config = model["config"]
    kind = "image-feature-extraction"
    return {
        "type": "machine-learning-model",
        "bom-ref": reference,
        "name": model["name"],
        "description": f"{model['origin']}" + (", quantized for the edge" if reference == "bundle" else ""),
        "licenses": [_licence(model["licence"])],
        "modelCard": {
            "modelParameters": {
                "task": kind,
                "architectureFamily": "vision transformer",
                "modelArchitecture": config["arch"],
            }
        },
    }


def _licence(name: str) -> dict[str, Any]:
    return {"license": {"id": name} if name in _SPDX else {"name": name}}


def _file(path: str, digest: str) -> dict[str, Any]:
    return {"type": "file", "bom-ref": path, "name": path, "hashes": [_sha256(digest)]}


def _sha256(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest}


def _tools(rows: Iterable[ArtifactRow]) -> list[dict[str, str]]:
    """edgekit and the packages that wrote the artifacts."""
    found = {"edgekit": __version__}
    for row in rows:
        found |= row.tools
    return [
        {"type": "library", "name": name, "version": found[name], "purl": f"pkg:pypi/{name}@{found[name]}"}
        for name in sorted(found)
    ]
