"""The types that travel: an exported model file with everything needed to run it rightly, and the build manifest."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from edgekit.errors import DataError
from edgekit.precision import Precision as Precision  # noqa: PLC0414
from edgekit.precision import Variant as Variant  # noqa: PLC0414

Format = Literal["onnx", "openvino", "coreml", "tflite"]
Status = Literal["ok", "failed", "not here"]

BUILD_SCHEMA: Final = "edgekit.build/1"
INPUT_NAME = "pixel_values"
IMAGE_NAME = "image"  # of a file that takes uint8 RGB (B, height, width, 3): of any size, if it resizes by itself
OUTPUT_NAMES = ("last_hidden_state", "pooler_output")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Frozen(BaseModel):
    """Base of the immutable records: unknown keys are errors, JSON round-trips exactly."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorSpec(Frozen):
    """Name, dtype and shape of one input or output; a symbolic dimension is a string such as "batch"."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    layout: str = ""


class Preprocess(Frozen):
    """How pixels become `pixel_values`: field names as in timm's PretrainedCfg, the official DINOv2 eval transform.

    `normalize` says who subtracts the mean and divides by the standard deviation: the "host" before the model, or the
    "graph" itself (the model then takes RGB 0..255). It is the only place that says so; nothing is normalised twice.
    """

    input_size: tuple[int, int]  # (height, width) of the crop
    resize: int  # length of the shortest edge before the centre crop
    interpolation: Literal["bicubic"] = "bicubic"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    normalize: Literal["host", "graph"] = "host"

    @classmethod
    def for_size(cls, height: int, width: int, *, normalize: Literal["host", "graph"] = "host") -> Preprocess:
        """Official ratio (256 for 224) scaled to another crop size."""
        return cls(input_size=(height, width), resize=round(min(height, width) * 256 / 224), normalize=normalize)


class Artifact(Frozen):
    """One exported model: where it is, what it computes, where it comes from. Transforms are Artifact -> Artifact."""

    name: str  # "onnx/w8a8_fused": unique in a build folder
    path: Path
    format: Format
    precision: Precision
    variant: Variant = "standard"
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess
    recipe_digest: str
    parent_sha256: str  # of the checkpoint it was made from
    tools: dict[str, str] = {}  # package -> version
    sha256: str
    size_mb: float
    notes: tuple[str, ...] = ()  # e.g. "exact U8U8 weights: this CPU saturates u8*s8"


class ArtifactRow(Frozen):
    """One row of the manifest: what was asked for and what became of it. `drift` and `latency` are report summaries."""

    name: str
    format: Format
    precision: Precision
    variant: Variant = "standard"
    path: str | None = None  # relative to the build folder, POSIX separators
    status: Status
    reason: str = ""
    sha256: str | None = None
    size_mb: float | None = None
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    preprocess: Preprocess | None = None
    notes: tuple[str, ...] = ()
    tools: dict[str, str] = {}
    drift: dict[str, Any] | None = None
    latency: dict[str, Any] | None = None
    audit: dict[str, Any] | None = None  # fusion and placement: what really runs in INT8


class Choice(Frozen):
    """The artifact that was chosen by measurement, what for, and the verdict's sentence; None where none was fit."""

    artifact: str | None
    goal: Literal["latency", "size", "accuracy"]
    max_drop: float | None  # of the class-token cosine; None: a grade of good or better
    sentence: str


class Manifest(BaseModel):
    """`OUT/manifest.json`: the contract other programs read."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=())

    schema_: Literal["edgekit.build/1"] = BUILD_SCHEMA
    model: dict[str, Any]  # name, source, licence, sha256, config
    recipe: dict[str, Any]
    recipe_digest: str
    host: dict[str, Any]
    artifacts: tuple[ArtifactRow, ...]
    choice: Choice | None = None  # when the build was asked to choose; `edgekit.load` opens it

    def write(self, folder: Path) -> Path:
        """Write `manifest.json` in `folder` atomically and return its path."""
        data = self.model_dump(mode="json")
        data = {"schema": data.pop("schema_"), **data}
        path = folder / "manifest.json"
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
        return path

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read `folder/manifest.json`; raises DataError when it is missing, unreadable or of another schema."""
        path = folder / "manifest.json"
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            data["schema_"] = data.pop("schema")
            return cls.model_validate(data)
        except FileNotFoundError:
            raise DataError(
                f"{folder} is not a build folder: it has no manifest.json",
                fix="edgekit build --model demo --out " + str(folder),
            ) from None
        except (ValueError, KeyError, AttributeError, ValidationError) as error:
            raise DataError(
                f"{path} cannot be read as {BUILD_SCHEMA}",
                why=str(error).splitlines()[0],
                fix="edgekit build again into an empty folder",
            ) from error


def files_of(path: Path) -> list[Path]:
    """Files of the artifact at `path`, sorted.

    All of a directory, `.xml` and `.bin` of an OpenVINO IR, a large `.onnx` and its `.onnx_data`, else itself.
    """
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.is_file())
    if path.suffix == ".onnx" and (beside := path.with_name(f"{path.name}_data")).is_file():
        return [path, beside]
    return [path.with_suffix(".bin"), path] if path.suffix == ".xml" else [path]


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, or of several (see `files_of`) as the digest of their relative paths and file digests."""
    if files_of(path) == [path]:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    root = path if path.is_dir() else path.parent
    total = hashlib.sha256()
    for file in files_of(path):
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{file.relative_to(root).as_posix()}\0{digest}\n".encode())
    return total.hexdigest()


def size_mb_of(path: Path) -> float:
    """Size in MB (10^6 bytes) of all files of an artifact."""
    return round(sum(p.stat().st_size for p in files_of(path)) / 1e6, 3)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; rename it to `path` on success, remove it on any failure (Ctrl-C included).

    The sibling keeps the file suffix, since converters choose their format by it. Works for files and directories;
    what a converter writes beside its file (the `.bin` of an `.xml`) is renamed first, the file itself last.
    """
    import shutil

    path.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{path.stem}.", dir=path.parent))
    temporary = holder / path.name
    try:
        yield temporary
        for companion in sorted(p for p in holder.iterdir() if p != temporary):
            os.replace(companion, path.parent / companion.name)
        if not path.is_dir() or path.is_symlink():
            os.replace(temporary, path)
            return
        old = holder / "replaced"  # a folder is not replaced in one step: the old one steps aside, and back if need be
        os.replace(path, old)
        try:
            os.replace(temporary, path)
        except BaseException:
            os.replace(old, path)
            raise
    finally:
        shutil.rmtree(holder, ignore_errors=True)
