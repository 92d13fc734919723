"""The manifest of a build folder: what was asked for, what became of it, and what was chosen."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator, model_validator

from edgekit.artifact import Artifact, Format, Frozen, Preprocess, Ran, TensorSpec
from edgekit.errors import DataError
from edgekit.files import atomic_path, inside, read_text
from edgekit.precision import Precision, Variant

BUILD_SCHEMA: Final = "edgekit.build/2"
_MOST_TEXT = 10_000  # characters of a name or licence
Status = Literal["ok", "failed", "not here"]


class _SizeDrift(Frozen):
    """Drift of a file for any size at one of them."""

    images: int
    sqnr_db: float | None
    cls_cosine_mean: float | None


def _require_sizes(sizes: object) -> None:
    """Raises ValueError for drifts by image size of another form than a build writes."""
    TypeAdapter(dict[str, _SizeDrift]).validate_python(sizes)


_CHANNELS = 3
_FIGURE = re.compile(r"(_ms|_mean|_mb|_per_s|_min|_max)$")  # keys whose values are numbers wherever they stand


def _is_figure(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


class ArtifactRow(Ran):
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
    tools: dict[str, str] = Field(default={})
    drift: dict[str, Any] | None = None
    latency: dict[str, Any] | None = None
    audit: dict[str, Any] | None = None  # fusion and placement: what really runs in INT8

    @classmethod
    def of(cls, artifact: Artifact, folder: Path) -> ArtifactRow:
        """The row in the manifest of `folder`, which holds the artifact's file."""
        kept = artifact.model_dump(exclude={"path", "recipe_digest", "parent_sha256"})
        return cls(**kept, path=artifact.path.relative_to(folder).as_posix(), status="ok")

    def to_artifact(self, folder: Path, *, recipe_digest: str, parent_sha256: str) -> Artifact:
        """The artifact that the row describes, of the build in `folder` whose digests are given; nothing is read.

        Raises:
            DataError: the row stands for an artifact that was not made.
        """
        if self.status != "ok" or self.path is None or self.preprocess is None:
            fix = f"edgekit build --out {folder}"
            raise DataError(f"{self.name} was not built ({self.status})", why=self.reason, fix=fix)
        same = {"name", "format", "precision", "variant", "arithmetic", "inputs", "outputs", "notes", "tools"}
        return Artifact(
            **self.model_dump(include=same),
            path=folder / self.path,
            preprocess=self.preprocess,
            sha256=self.sha256 or "",
            size_mb=self.size_mb or 0.0,
            recipe_digest=recipe_digest,
            parent_sha256=parent_sha256,
        )

    @field_validator("drift", "latency")
    @classmethod
    def _figures_are_numbers(cls, values: dict[str, Any] | None) -> dict[str, Any] | None:
        """Refuse figures that are no numbers, since they are compared and formatted (NaN of a failed file is one)."""
        for key, value in (values or {}).items():
            if _FIGURE.search(key) and not _is_figure(value):
                raise ValueError(f"{key} = {str(value)[:60]!r} is no number")
        _require_sizes((values or {}).get("sizes", {}))
        return values

    @field_validator("latency")
    @classmethod
    def _latency_has_a_median(cls, values: dict[str, Any] | None) -> dict[str, Any] | None:
        if values is not None and values.get("p50_ms") is None:
            raise ValueError("latency has no p50_ms")
        return values

    @model_validator(mode="after")
    def _sizes_agree(self) -> Self:
        """An input of fixed size (B, 3, H, W) or (B, H, W, 3) is that of the preprocessing."""
        sides = [d for d in self.inputs[0].shape[1:] if isinstance(d, int) and d != _CHANNELS] if self.inputs else []
        if self.preprocess and len(sides) == 2 and tuple(sides) != self.preprocess.input_size:
            raise ValueError(f"input_size {self.preprocess.input_size}, but the input is {sides[0]}x{sides[1]}")
        if self.status == "ok" and self.path is not None and self.preprocess is not None and not self.inputs:
            raise ValueError("an artifact that was made has inputs")
        return self


class TimingRun(Frozen):
    """One interleaved latency measurement on one host. Only latencies that name the same run may be compared."""

    id: str  # what `latency.run` of a row names
    date: str  # UTC, "2026-11-29T14:03:00Z"
    threads: int | None  # of each runtime; None left it to the runtime
    batch: int
    image_size: tuple[int, int]  # (height, width) in pixels
    busy: float  # share 0..1 of the processor time that other work took meanwhile
    host: dict[str, Any]  # as `edgekit.host.Host`


class Choice(Frozen):
    """The artifact that was chosen by measurement, what for, and the verdict's sentence; None where none was fit."""

    artifact: str | None
    goal: Literal["latency", "size", "accuracy"]
    max_drop: float | None  # of the class-token cosine; None: a grade of good or better
    sentence: str
    run: str | None = None  # id of the run whose latencies decided


class Manifest(BaseModel):
    """`OUT/manifest.json`: the contract other programs read."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=())

    schema_: Literal["edgekit.build/2"] = BUILD_SCHEMA
    model: dict[str, Any]  # name, source, licence, origin, sha256 (texts), config
    recipe: dict[str, Any]
    recipe_digest: str
    host: dict[str, Any]
    artifacts: tuple[ArtifactRow, ...]
    choice: Choice | None = None  # of every measured build; on the machine that measured `edgekit.load` opens it
    runs: tuple[TimingRun, ...] = ()  # of the rows' latencies, one per image size

    @field_validator("model")
    @classmethod
    def _texts_are_texts(cls, values: dict[str, Any]) -> dict[str, Any]:
        for key in ("name", "source", "licence", "origin", "sha256"):
            if not isinstance(values.get(key, ""), str) or len(values.get(key, "")) > _MOST_TEXT:
                raise ValueError(f"model.{key} = {str(values[key])[:60]!r} is no text")
        return values

    def run_of(self, row: ArtifactRow) -> TimingRun | None:
        """The run that a row's latency is of; None where it has none, or is of an earlier version."""
        name = (row.latency or {}).get("run")
        return next((run for run in self.runs if run.id == name), None)

    def write(self, folder: Path) -> Path:
        """Write `manifest.json` in `folder` atomically, unless it says the same already, and return its path."""
        data = self.model_dump(mode="json")
        data = {"schema": data.pop("schema_"), **data}
        path, text = folder / "manifest.json", json.dumps(data, indent=2) + "\n"
        if not _says(path, text):
            with atomic_path(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        return path

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of a folder.

        Raises:
            DataError: it is missing, unreadable or of another schema, or names a file that is not inside `folder`.
        """
        path = folder / "manifest.json"
        try:
            data = json.loads(read_text(path))
            data["schema_"] = data.pop("schema")
            _refuse_earlier(data["schema_"], folder)
            manifest = cls.model_validate(data)
        except (FileNotFoundError, NotADirectoryError):
            raise DataError(
                f"{folder} is not a build folder: it has no manifest.json",
                fix="edgekit build --model demo --out " + str(folder),
            ) from None
        except OSError as error:
            raise DataError(f"{path} cannot be read", why=error.strerror or str(error), fix=f"ls -l {path}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(
                f"{path} cannot be read as {BUILD_SCHEMA}",
                why=str(error).splitlines()[0],
                fix="edgekit build --out ANOTHER_FOLDER",
            ) from error
        for row in manifest.artifacts:
            if row.path is not None:
                inside(folder, row.path, said_by=str(path))
        return manifest


def _says(path: Path, text: str) -> bool:
    """Whether a file holds exactly this text."""
    try:
        return path.read_bytes() == text.encode()
    except OSError:
        return False


def _refuse_earlier(schema: object, folder: Path) -> None:
    """Raises DataError for a build folder of a schema before ours, whose names meant other things."""
    if schema != BUILD_SCHEMA and str(schema).startswith("edgekit.build/"):
        raise DataError(
            f"{folder} is a build folder of {schema}, this edgekit reads {BUILD_SCHEMA}",
            why="files have been renamed to what they hold: build it again in a new folder",
            fix="edgekit build --model demo --out ANOTHER_FOLDER",
        )
