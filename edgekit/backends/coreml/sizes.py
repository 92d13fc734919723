"""Joins Core ML packages of one model at several image sizes into one: a function per size, weights stored once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgekit.artifact import INPUT_NAME, Artifact
from edgekit.backends.coreml.interpreter.program import MilProgram
from edgekit.backends.coreml.package import SPEC, function_of, make_deterministic
from edgekit.backends.coreml.tools import coremltools, quiet
from edgekit.backends.metadata import MANIFEST_KEY, manifest_text
from edgekit.errors import ExportError
from edgekit.files import atomic_path, sha256_of, size_mb_of


def join_packages(artifacts: Sequence[Artifact], path: Path) -> tuple[Artifact, ...]:
    """Write one package with a function per artifact; the first is the one that runs unasked (iOS 18, macOS 15).

    Each function is read back, interpreted on one image, and must give what its own package gives, bit for bit.

    Returns:
        An artifact per size, all of one file; their notes name the functions and how much the weights share.

    Raises:
        ExportError: fewer than two sizes, different models or precisions, or a function that is not its package.
    """
    first = artifacts[0] if artifacts else None
    sizes = [artifact.preprocess.input_size for artifact in artifacts]
    if first is None or len(set(sizes)) < 2 or len(set(sizes)) < len(sizes):
        raise ExportError(f"{len(set(sizes))} image sizes cannot be joined", why="two or more are wanted, each once")
    if len({(artifact.parent_sha256, artifact.precision) for artifact in artifacts}) > 1:
        raise ExportError(
            "packages of different models or precisions cannot be joined",
            why=", ".join(artifact.name for artifact in artifacts),
        )
    functions = [function_of(size) for size in sizes]
    with atomic_path(path) as temporary:
        _save(artifacts, functions, temporary)
        apart, together = sum(artifact.size_mb for artifact in artifacts), size_mb_of(temporary)
        notes = (*first.notes, f"functions {', '.join(functions)}: {together:.1f} MB, {apart:.1f} MB in packages apart")
        _describe(temporary, first.model_copy(update={"notes": notes}))
        for artifact, function in zip(artifacts, functions, strict=True):
            _require_equal(temporary, function, artifact)
    written = {"path": path, "sha256": sha256_of(path), "size_mb": size_mb_of(path), "notes": notes}
    return tuple(artifact.model_copy(update=written) for artifact in artifacts)


def _save(artifacts: Sequence[Artifact], functions: Sequence[str], path: Path) -> None:
    coremltools()
    from coremltools.models.utils import MultiFunctionDescriptor, save_multifunction

    wanted = MultiFunctionDescriptor()
    for artifact, function in zip(artifacts, functions, strict=True):
        wanted.add_function(str(artifact.path), src_function_name="main", target_function_name=function)
    wanted.default_function_name = functions[0]
    with quiet():
        save_multifunction(wanted, str(path))


def _describe(path: Path, joined: Artifact) -> None:
    """Bring the metadata back, which joining loses, and the same bytes for the same packages."""
    from coremltools.proto import Model_pb2

    source = Model_pb2.Model.FromString((joined.path / SPEC).read_bytes())
    spec = Model_pb2.Model.FromString((path / SPEC).read_bytes())
    spec.description.metadata.CopyFrom(source.description.metadata)
    spec.description.metadata.userDefined[MANIFEST_KEY] = manifest_text(joined.model_dump(mode="json"))
    (path / SPEC).write_bytes(spec.SerializeToString(deterministic=True))
    make_deterministic(path)


def _require_equal(path: Path, function: str, artifact: Artifact) -> None:
    pixels = np.random.default_rng(0).standard_normal((1, 3, *artifact.preprocess.input_size), np.float32)
    alone, joined = MilProgram(artifact.path)({INPUT_NAME: pixels}), MilProgram(path, function)({INPUT_NAME: pixels})
    if any(not np.array_equal(alone[name], joined[name]) for name in alone):
        raise ExportError(f"the function {function} does not compute what {artifact.path.name} does")
