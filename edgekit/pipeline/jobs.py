"""The artifacts a recipe asks for, each with its place in the build folder and the reason if it cannot be made here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import PurePosixPath

from edgekit.artifact import Format
from edgekit.backends import Backend, get_backend
from edgekit.errors import RecipeError
from edgekit.manifest import ArtifactRow, Status
from edgekit.precision import FACTS, FUSED_BESIDE, VARIANTS, Arithmetic, Precision, Variant, is_float
from edgekit.recipe import Engine, Input, Recipe

Size = tuple[int, int]  # (height, width) in pixels
ANY_SIZE = "_any_size"  # ends the name of a file for any size beside baked ones


@dataclass(frozen=True)
class Job:
    """One artifact to make. `blocked` says why it cannot be made, anywhere or on this machine; None when it can.

    The first image size of a recipe has the contract's plain names (onnx/w8a8, onnx/model_w8a8.onnx); every further one
    carries its height and width (onnx/w8a8_518x518, onnx/model_w8a8_518x518.onnx). A file for images of any size has
    the plain name where no size is baked, else "any_size" (onnx/w8a8_any_size); `size` is the one at which it is
    compared and timed.
    """

    format: Format
    precision: Precision
    variant: Variant
    size: Size
    suffix: str  # "" for the main size, else "_518x518" or "_any_size"
    path: str  # relative to the build folder, POSIX separators
    blocked: str | None = None
    engine: Engine = "edgekit"  # that quantizes it
    sides: tuple[int, int] | None = None  # the shortest and longest side of a file for images of any size, in pixels
    input: Input = "pixel_values"  # or "image": a sibling's file with the transform in front
    arithmetic: Arithmetic = "plan"  # or "default": a sibling's file, run as its runtime does of its own accord

    @property
    def name(self) -> str:
        """Unique in a build folder."""
        variant = "" if self.variant == "standard" else f"_{self.variant}"
        engine = "" if self.engine == "edgekit" else f"_{self.engine}"
        image = "_image" if self.input == "image" else ""
        default = "_default" if self.arithmetic == "default" else ""
        return f"{self.format}/{self.precision}{variant}{engine}{image}{default}{self.suffix}"

    @property
    def slug(self) -> str:
        """The name as a file name."""
        return self.name.replace("/", "_")

    @property
    def integer(self) -> bool:
        """Whether it is written from a quantization plan."""
        return not is_float(self.precision) and self.engine == "edgekit"

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

    Lists and does nothing else: `on_this_machine` says which of them can be made here.

    Raises:
        RecipeError: no format, no precision or no image size is asked for.
    """
    if not (recipe.formats and recipe.precisions and recipe.sizes):
        raise RecipeError(
            "nothing to build",
            why="the recipe names no format, no precision or no image size",
            fix="edgekit build --format onnx --precision fp32,w8a8 --out OUT",
        )
    jobs = []
    for index, size in enumerate(dict.fromkeys(recipe.image_size)):
        suffix = "" if index == 0 else f"_{size[0]}x{size[1]}"
        for format_ in dict.fromkeys(recipe.formats):
            jobs += _of_format(recipe, format_, size, suffix)
    if recipe.any_size is not None:
        suffix = ANY_SIZE if recipe.image_size else ""
        for format_ in dict.fromkeys(recipe.formats):
            jobs += map(partial(_any_size, recipe.any_size), _of_format(recipe, format_, recipe.main_size, suffix))
    return tuple(jobs)


def _any_size(sides: tuple[int, int], job: Job) -> Job:
    """The same artifact for images of any size, where its format has such files."""
    backend, _ = _imported(job.format)
    if job.blocked or backend is None:
        return replace(job, sides=sides)
    if not backend.any_size:
        why = f"{backend.title} files take images of one size: --image-size 224,518 makes one of each"
    elif job.input == "image" or job.engine != "edgekit":
        why = "a file that resizes images, and one of another engine, are made for one size"
    else:
        return replace(job, sides=sides)
    return replace(job, sides=sides, blocked=why)


def _of_format(recipe: Recipe, format_: Format, size: Size, suffix: str) -> list[Job]:
    precisions = [precision for precision in FACTS if precision in recipe.precisions]
    backend, blocked = _imported(format_)
    if backend is None:
        return [Job(format_, precision, "standard", size, suffix, "", blocked) for precision in precisions]
    jobs = []
    for precision in FACTS:
        if not is_float(precision) and "edgekit" not in recipe.engines:
            continue
        variants, why = _forms(backend, precision, recipe)
        if why:
            jobs.append(Job(format_, precision, "standard", size, suffix, "", why))
        for variant in variants:
            name = PurePosixPath(format_, backend.filename(precision, variant))
            path = str(name.with_name(f"{name.stem}{suffix}{name.suffix}"))
            jobs.append(Job(format_, precision, variant, size, suffix, path))
    for engine, precision in backend.peers.items():
        if engine in recipe.engines and precision in precisions:
            path = f"{format_}/model_{precision}_{engine}{suffix}{backend.suffix}"
            jobs.append(Job(format_, precision, "standard", size, suffix, path, engine=engine))
    if backend.image_input and "image" in recipe.inputs:
        jobs += [_with_image_input(job) for job in jobs if job.path and job.variant == "standard"]
    return jobs


def _forms(backend: Backend, precision: Precision, recipe: Recipe) -> tuple[list[Variant], str]:
    """The forms in which a recipe wants a precision, and why there is none where it asks for it all the same."""
    written = [variant for variant in VARIANTS if (precision, variant) in backend.variants()]
    wanted = [variant for variant in written if _switched_on(variant, recipe)]
    if precision in recipe.precisions:
        if not written:
            known = ", ".join(dict.fromkeys(p for p, _ in backend.variants()))
            return [], f"{backend.format} does not write {precision}; it writes {known}"
        off = ", ".join(f"{precision}_{variant}" for variant in written)
        return wanted, "" if wanted else f"{backend.format} writes {off} only, which the recipe switches off"
    beside = FUSED_BESIDE.get(precision) in recipe.precisions
    return [variant for variant in wanted if beside and (variant == "fused" or backend.own_kernels)], ""


def _switched_on(variant: Variant, recipe: Recipe) -> bool:
    switch = VARIANTS[variant].switch
    return switch is None or bool(getattr(recipe, switch))


def _with_image_input(job: Job) -> Job:
    """The same artifact behind the transform."""
    path = PurePosixPath(job.path)
    stem = path.stem.removesuffix(job.suffix) if job.suffix else path.stem
    return replace(job, input="image", path=str(path.with_name(f"{stem}_image{job.suffix}{path.suffix}")))


def exporter_of(job: Job, recipe: Recipe) -> Backend:
    """The backend that writes a job, set as the recipe wants it."""
    return get_backend(job.format).set_by(recipe, image_input=job.input == "image")


def on_this_machine(jobs: Iterable[Job], *, runtime_defaults: bool = False) -> tuple[Job, ...]:
    """The same jobs, `blocked` where this machine cannot make them. Compiles the fused ops on their first use.

    Args:
        jobs: of a recipe.
        runtime_defaults: add a job behind each whose runtime computes otherwise on this CPU when it is left to itself.
    """

    @cache
    def missing(format_: Format, fused: bool, engine: Engine) -> str | None:
        backend, why = backend_of(format_)
        if backend is None or why:
            return why
        if engine in backend.peers:
            return backend.engine_missing(engine)
        return backend.fused_missing() if fused else None

    found = []
    for asked in jobs:
        why = asked.blocked or missing(asked.format, asked.variant == "fused", asked.engine)
        job = replace(asked, blocked=why)
        found.append(job)
        if runtime_defaults and _computed_otherwise(job):
            found.append(replace(job, arithmetic="default"))
    return tuple(found)


def _computed_otherwise(job: Job) -> bool:
    """Whether the runtime of a file of ours computes otherwise than its plan when left to itself."""
    if job.blocked or job.engine != "edgekit" or job.input != "pixel_values":
        return False
    return get_backend(job.format).own_arithmetic(job.precision, job.variant) is not None


def backend_of(format_: Format) -> tuple[Backend | None, str | None]:
    """The backend and why it cannot export here; no backend at all when this edgekit has none for the format."""
    backend, why = _imported(format_)
    return backend, why if backend is None else backend.missing()


def _imported(format_: Format) -> tuple[Backend | None, str | None]:
    """The backend, or why there is none."""
    try:
        backend = get_backend(format_)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("edgekit."):
            return None, f"the {format_} backend needs {error.name}: pip install 'edgekit[{format_}]'"
        return None, f"this edgekit has no {format_} backend yet"
    return backend, None
