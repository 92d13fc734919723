"""Saves MIL programs as .mlpackage, same program same bytes, and reads them back."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.backends.coreml.tools import coremltools, quiet
from edgekit.errors import DataError

if TYPE_CHECKING:
    from edgekit.backends.coreml.builder import Target

SPEC = Path("Data/com.apple.CoreML/model.mlmodel")
_UNSTABLE = ("com.github.apple.coremltools.conversion_date",)


def save(
    program: Any,
    path: Path,
    target: Target,
    description: str,
    licence: str,
    metadata: Mapping[str, str],
    inputs: Sequence[Any] | None = None,
) -> None:
    """Write `program`, built in its final types, to `path`; no pass of coremltools changes it on the way.

    Args:
        program: of `edgekit.backends.coreml.emitter.program_of`.
        path: of the package, a folder.
        target: the oldest system that shall run it.
        description: shown by Xcode.
        licence: of the weights.
        metadata: text entries of the package.
        inputs: coremltools' `TensorType`s, of flexible shapes; None where the program says all.
    """
    ct = coremltools()
    with quiet():
        model = ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=getattr(ct.target, target),
            compute_precision=ct.precision.FLOAT32,  # as it is: the program has its final types
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
            inputs=inputs,
        )
        model.short_description, model.license = description, licence
        model.user_defined_metadata.update(metadata)
        model.save(str(path))
    make_deterministic(path)


def read_function(path: Path, name: str | None = None) -> Any:
    """A function of the program at `path`, as coremltools' `Function`.

    Args:
        path: of the package.
        name: of the function; None for the one that Core ML runs unasked.

    Raises:
        DataError: missing, damaged, no ML program, or no such function.
    """
    ct = coremltools()
    if not (path / "Manifest.json").is_file():
        raise DataError(
            f"{path} is no Core ML package",
            why="it has no Manifest.json",
            fix="edgekit export --format coreml --out OUT",
        )
    with quiet():
        from coremltools.converters.mil.frontend.milproto.load import load

    try:
        with quiet():
            model = ct.models.MLModel(str(path), skip_model_load=True)
            spec = model.get_spec()
            program = load(spec, specification_version=spec.specificationVersion, file_weights_dir=model.weights_dir)
    except Exception as error:  # protobuf, JSON and C++ errors share no base class
        raise DataError(
            f"{path} is not a readable Core ML package",
            why=(str(error).splitlines() or [""])[0],
            fix="edgekit export --format coreml --out OUT",
        ) from None
    wanted = name or spec.description.defaultFunctionName or "main"
    if wanted not in program.functions:
        raise DataError(f"{path} has no function {wanted}", why="it has " + ", ".join(sorted(program.functions)))
    return program.functions[wanted]


def read_metadata(path: Path) -> dict[str, str]:
    """The text entries of a package, without coremltools' reader of programs.

    Raises:
        DataError: missing or damaged.
    """
    return dict(_description(path).metadata.userDefined)


def read_function_names(path: Path) -> tuple[str, ...]:
    """The functions of a package that has several, else nothing. Raises DataError as `read_metadata`."""
    return tuple(function.name for function in _description(path).functions)


def read_batch(path: Path) -> int:
    """The most images of one call. Raises DataError as `read_metadata`."""
    description = _description(path)
    inputs = description.input or description.functions[0].input
    shape = inputs[0].type.multiArrayType.shapeRange.sizeRanges
    return int(shape[0].upperBound) if len(shape) else 1


def function_of(size: tuple[int, int]) -> str:
    """Name of the function for images of (height, width): what `MLModelConfiguration.functionName` selects."""
    return f"size_{size[0]}x{size[1]}"


def _description(path: Path) -> Any:
    """Protobuf description of the package's model."""
    coremltools()
    from coremltools.proto import Model_pb2
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        spec = Model_pb2.Model.FromString((path / SPEC).read_bytes())
    except (OSError, DecodeError) as error:
        raise DataError(
            f"{path} is not a readable Core ML package", why=str(error), fix="edgekit export --format coreml --out OUT"
        ) from None
    return spec.description


def make_deterministic(path: Path) -> None:
    """Replace what differs from run to run: the date, the order of protobuf's maps, random identifiers."""
    from coremltools.proto import Model_pb2

    file = path / SPEC
    spec = Model_pb2.Model.FromString(file.read_bytes())
    for key in _UNSTABLE:
        spec.description.metadata.userDefined.pop(key, None)
    file.write_bytes(spec.SerializeToString(deterministic=True))
    manifest = json.loads((path / "Manifest.json").read_text(encoding="utf-8"))
    renamed = {
        old: str(uuid.uuid5(uuid.NAMESPACE_URL, item["path"])) for old, item in manifest["itemInfoEntries"].items()
    }
    entries = {renamed[old]: item for old, item in manifest["itemInfoEntries"].items()}
    manifest |= {"itemInfoEntries": entries, "rootModelIdentifier": renamed[manifest["rootModelIdentifier"]]}
    (path / "Manifest.json").write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n", encoding="utf-8")
