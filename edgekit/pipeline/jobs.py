"""The artifacts a recipe asks for, each with its place in the build folder and the reason if it cannot be made here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from edgekit.artifact import ArtifactRow, Format, Status
from edgekit.backends import BACKENDS, Backend, get_backend
from edgekit.backends.openvino.nncf import nncf_missing
from edgekit.errors import BackendMissing, RecipeError
from edgekit.precision import Precision, Variant
from edgekit.recipe import Engine, Input, Recipe

Size = tuple[int, int]  # (height, width) in pixels

_FLOAT: tuple[Precision, ...] = ("fp32", "fp16")
_FUSED_LIBRARIES: dict[Format, str] = {"onnx": "ort_library", "openvino": "openvino_extension"}
_FUSED_REASON = "the library of fused ops is not built here"


@dataclass(frozen=True)
class Job:
    """One artifact to make. `blocked` says why it cannot be made on this machine, None when it can.

    The first image size of a recipe has the contract's plain names (onnx/w8a8, onnx/model_w8a8.onnx); every further one
    carries its height and width (onnx/w8a8_518x518, onnx/model_w8a8_518x518.onnx).
    """

    format: Format
    precision: Precision
    variant: Variant
    size: Size
    suffix: str  # "" for the main size, else "_518x518"
    path: str  # relative to the build folder, POSIX separators
    blocked: str | None = None
    engine: Engine = "edgekit"  # that quantizes it
    input: Input = "pixel_values"  # or "image": a sibling's file with the transform in front

    @property
    def name(self) -> str:
        """Unique in a build folder."""
        variant = "" if self.variant == "standard" else f"_{self.variant}"
        engine = "" if self.engine == "edgekit" else f"_{self.engine}"
        image = "_image" if self.input == "image" else ""
        return f"{self.format}/{self.precision}{variant}{engine}{image}{self.suffix}"

    @property
    def slug(self) -> str:
        """The name as a file name."""
        return self.name.replace("/", "_")

    @property
    def integer(self) -> bool:
        """Whether it is written from a quantization plan."""
        return self.precision not in _FLOAT and self.engine == "edgekit"

    def row(self, status: Status, reason: str = "") -> ArtifactRow:
        """A row of the manifest without artifact."""
        return ArtifactRow(
            name=self.name,
            format=self.format,
            precision=self.precision,
            variant=self.variant,
            status=status,
            reason=reason,
        )


def jobs_of(recipe: Recipe) -> tuple[Job, ...]:
    """All artifacts of a recipe in the order in which they are made: the float ones, whose parity is known, first.

    Raises:
        RecipeError: no format, no precision or no image size is asked for.
    """
    if not (recipe.formats and recipe.precisions and recipe.image_size):
        raise RecipeError(
            "nothing to build",
            why="the recipe names no format, no precision or no image size",
            fix="edgekit build --format onnx --precision fp32,w8a8 --out OUT",
        )
    order: tuple[Precision, ...] = ("fp32", "fp16", "w8", "w8a8", "w8a16", "w4", "w4a8")
    precisions = [precision for precision in order if precision in recipe.precisions]
    jobs = []
    for index, size in enumerate(dict.fromkeys(recipe.image_size)):
        suffix = "" if index == 0 else f"_{size[0]}x{size[1]}"
        for format_ in dict.fromkeys(recipe.formats):
            jobs += _of_format(recipe, format_, precisions, size, suffix)
    return tuple(jobs)


def _of_format(recipe: Recipe, format_: Format, precisions: list[Precision], size: Size, suffix: str) -> list[Job]:
    backend, blocked = backend_of(format_)
    if backend is None:
        return [Job(format_, precision, "standard", size, suffix, "", blocked) for precision in precisions]
    jobs = []
    written = backend.variants()
    for precision in precisions:
        if precision not in _FLOAT and "edgekit" not in recipe.engines:
            continue
        variants: list[Variant] = [v for v in ("standard", "fused", "composite") if (precision, v) in written]
        if not variants:
            why = f"{format_} does not write {precision}; it writes {', '.join(dict.fromkeys(p for p, _ in written))}"
            jobs.append(Job(format_, precision, "standard", size, suffix, "", why))
        for variant in variants:
            if not {"fused": recipe.fused, "composite": recipe.fused_attention}.get(variant, True):
                continue
            name = PurePosixPath(format_, backend.filename(precision, variant))
            path = str(name.with_name(f"{name.stem}{suffix}{name.suffix}"))
            why_not = blocked or (fused_missing(format_) if variant == "fused" else None)
            jobs.append(Job(format_, precision, variant, size, suffix, path, why_not))
    if format_ == "openvino" and "w8a8" in precisions and "nncf" in recipe.engines:
        path = f"openvino/model_w8a8_nncf{suffix}.xml"
        jobs.append(Job(format_, "w8a8", "standard", size, suffix, path, blocked or nncf_missing(), "nncf"))
    if format_ in ("openvino", "coreml") and "image" in recipe.inputs:
        jobs += [_with_image_input(job) for job in jobs if job.path and job.variant == "standard"]
    return jobs


def _with_image_input(job: Job) -> Job:
    """The same artifact behind the transform."""
    path = PurePosixPath(job.path)
    stem = path.stem.removesuffix(job.suffix) if job.suffix else path.stem
    return replace(job, input="image", path=str(path.with_name(f"{stem}_image{job.suffix}{path.suffix}")))


def exporter_of(job: Job, recipe: Recipe) -> Backend:
    """The backend that writes a job, set as the recipe wants it."""
    if job.format != "coreml":
        return get_backend(job.format)
    from edgekit.backends.coreml.backend import CoreMlBackend

    return CoreMlBackend(recipe.coreml.target, recipe.coreml.batch if job.input == "pixel_values" else 1)


def backend_of(format_: Format) -> tuple[Backend | None, str | None]:
    """The backend and why it cannot export here; no backend at all when this edgekit has none for the format."""
    try:
        backend = get_backend(format_)
    except ModuleNotFoundError as error:
        if error.name != BACKENDS[format_].partition(":")[0]:
            return None, f"the {format_} backend needs {error.name}: pip install 'edgekit[{format_}]'"
        return None, f"this edgekit has no {format_} backend yet"
    return backend, backend.missing()


def fused_missing(format_: Format = "onnx") -> str | None:
    """None when a format's fused ops can be exported and run here, else why not."""
    from edgekit import native as ops

    if format_ not in _FUSED_LIBRARIES:  # what is fused there is the runtime's own
        return None
    find = getattr(ops, _FUSED_LIBRARIES.get(format_, ""), None)
    if find is None:
        return _FUSED_REASON
    try:
        find()
    except BackendMissing as error:
        return str(error)
    return None
