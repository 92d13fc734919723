"""Opens any artifact or build folder as a model that takes pictures, without torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from edgekit.artifact import FORMATS, IMAGE_NAME, Artifact
from edgekit.backends.base import Runner
from edgekit.backends.pictures import Outputs, prepared, rgb, several, shown
from edgekit.backends.registry import format_of_suffix, get_backend
from edgekit.errors import BackendMissing, DataError
from edgekit.files import checked, inside
from edgekit.manifest import ArtifactRow, Choice, Manifest
from edgekit.precision import Arithmetic, speed_rank
from edgekit.settings import MOST_THREADS

if TYPE_CHECKING:
    from edgekit.backends.pictures import Picture
    from edgekit.images.fit import Resize


@dataclass(frozen=True)
class LoadedModel:
    """A runner that also takes pictures, and says why it was chosen.

    `reason` is one sentence; `passed_over` names each better artifact of the folder and why it cannot run here.
    `siblings` open the same kind of file for the other sizes that a folder holds, by (height, width): what is given in
    one of them as it is, pixels or a picture with `resize="exact"`, is run by that.
    """

    runner: Runner
    reason: str
    passed_over: tuple[tuple[str, str], ...] = ()
    siblings: Mapping[tuple[int, int], Callable[[], LoadedModel]] = field(default_factory=dict)

    @property
    def artifact(self) -> Artifact:
        """Artifact that is being run."""
        return self.runner.artifact

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """Names of the classes by output, in the order of its channels; of outputs whose names are known."""
        return {spec.name: spec.classes for spec in self.artifact.outputs if spec.classes}

    def __call__(
        self, images: Picture | Sequence[Picture], resize: Resize | None = None, side: int | None = None
    ) -> Outputs:
        """`last_hidden_state` (B, N, D), `pooler_output` (B, D) and the outputs of heads, with their grid of patches.

        A file of one size crops pictures to it by its own transform. One of any size takes them whole.

        Args:
            images: one picture or several (PIL image, path, or RGB uint8 array (H, W, 3)), which are preprocessed as
                the artifact says; or `pixel_values`, a float32 array (B, 3, H, W), which is taken as it is.
            resize: how a whole picture becomes an input of a file of any size: "shortest" (the default) scales its
                shorter side to `side`, "keep-aspect" leaves its size but for the rounding to patches, "exact" takes its
                pixels as they are. Nothing is cropped or padded.
            side: of "shortest", in pixels; the file's own, 224 unless built otherwise, without one.

        Raises:
            DataError: an array of another shape or type, a picture that cannot be read, or a size that the file does
                not take, with the nearest that it does.
        """
        given, transform = self.artifact.inputs[0], self.artifact.preprocess
        takes_images = given.name == IMAGE_NAME and "height" in given.shape  # the file resizes by itself
        if isinstance(images, np.ndarray) and images.dtype == np.float32 and not takes_images:
            if sibling := self.siblings.get(images.shape[2:]):  # type: ignore[call-overload]
                return sibling()(images)
            pixels = self._checked(images)
            return Outputs(self.runner(pixels), transform.at(*pixels.shape[2:]).grid)
        pictures = several(images)
        if takes_images:
            each = [self.runner(np.asarray(rgb(picture))[None]) for picture in pictures]
            return Outputs(
                {name: np.concatenate([outputs[name] for outputs in each]) for name in each[0]}, transform.grid
            )
        if resize == "exact" and (sibling := self._sibling_of(pictures)):
            return sibling()(pictures, resize)
        pixels, grid = prepared(pictures, transform, resize, side)
        return Outputs(self.runner(pixels), grid)

    def _sibling_of(self, pictures: Sequence[Picture]) -> Callable[[], LoadedModel] | None:
        """The file of the size that all pictures have, where it is another one."""
        sizes = {(image.height, image.width) for image in map(rgb, pictures)} if self.siblings else set()
        return self.siblings.get(sizes.pop()) if len(sizes) == 1 else None

    def _checked(self, pixel_values: np.ndarray) -> np.ndarray:
        transform = self.artifact.preprocess
        wanted = (3, *(("height", "width") if transform.sides else transform.input_size))
        fits = pixel_values.ndim == 4 and len(pixel_values) > 0 and pixel_values.shape[1] == 3
        if not fits or (transform.sides is None and pixel_values.shape[1:] != wanted):
            raise DataError(
                f"pixel_values has shape {pixel_values.shape}",
                why=f"{self.artifact.name} takes (B, {', '.join(map(str, wanted))}), B of 1 or more",
            )
        transform.at(*pixel_values.shape[2:])
        return pixel_values


def load(
    path: Path | str,
    threads: int | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    arithmetic: Arithmetic | None = None,
) -> LoadedModel:
    """Open an artifact file, or the best artifact of a build folder that runs on this machine.

    That is the one that the folder's report recommends, where it was measured on this machine; `reason` says so, or
    how it was chosen on another one.

    A file that a build folder or bundle lists is compared with the manifest's digest first; of any other file
    `LoadedModel.reason` says that its content is unverified.

    Args:
        path: `OUT`, `OUT/onnx/model_w8a8.onnx`, or any `.onnx` that edgekit wrote.
        threads: of the runtime, from 1 to 1024; None lets it choose.
        image_size: (height, width) in pixels; of a build folder only artifacts of this size are looked at.
        arithmetic: "plan" for what the file means, "default" for what its runtime does of its own accord (OpenVINO
            computes in bfloat16 on CPUs that have it); None is as the artifact was measured.

    Raises:
        DataError: not an artifact or build folder, or damaged, an impossible number of threads or kind of arithmetic,
            or no artifact of that image size.
        BackendMissing: nothing in it runs here; each reason is given.
    """
    path = _path(path)
    require_threads(threads)
    if arithmetic not in (None, *get_args(Arithmetic)):
        raise DataError(f"arithmetic = {shown(arithmetic)}", why='it is "plan" or "default"', fix='edgekit.load("OUT")')
    changed = {} if arithmetic is None else {"arithmetic": arithmetic}
    if path.is_dir() and format_of_suffix(path.suffix) is None:
        return _load_best(path, threads, image_size, changed)
    artifact = artifact_at(path).model_copy(update=changed)
    reason = f"{path.name} was asked for"
    if _listed(path) is None:
        reason += "; no manifest lists it, so its content is unverified"
    return LoadedModel(get_backend(artifact.format).runner(artifact, threads), reason)


def artifact_of(row: ArtifactRow, manifest: Manifest, folder: Path) -> Artifact:
    """The artifact that a row of OUT/manifest.json describes, its file compared with the digest there.

    Raises:
        DataError: the row stands for an artifact that was not made, is not inside `folder`, or is another file.
    """
    parent = str(manifest.model.get("sha256", ""))
    artifact = row.to_artifact(folder, recipe_digest=manifest.recipe_digest, parent_sha256=parent)
    said_by, fix = str(folder / "manifest.json"), f"edgekit build again with --out {folder}: it makes what is damaged"
    place = inside(folder, str(row.path), said_by=said_by)
    return artifact.model_copy(update={"path": checked(place, row.sha256, said_by=said_by, fix=fix)})


def _load_best(
    folder: Path, threads: int | None, size: tuple[int, int] | None, changed: Mapping[str, str]
) -> LoadedModel:
    manifest = Manifest.read(folder)
    made = [row for row in manifest.artifacts if row.status == "ok" and _for_this_kind_of_machine(row)]
    if size is not None:
        made = [row for row in made if row.preprocess and row.preprocess.input_size == size]
        if not made:
            shown = f"{size[0]}x{size[1]}"
            raise DataError(
                f"{folder} has no artifact of {shown} pixels", fix=f"edgekit build --image-size {shown} --out {folder}"
            )
        if manifest.choice and manifest.choice.artifact not in {row.name for row in made}:
            manifest = manifest.model_copy(update={"choice": None})  # it was chosen among those of another size
    order = _order(manifest, made)
    passed_over: list[tuple[str, str]] = []
    for row in order.rows:
        try:
            artifact = artifact_of(row, manifest, folder).model_copy(update=changed)
            runner = get_backend(row.format).runner(artifact, threads)
        except BackendMissing as missing:
            passed_over.append((row.name, str(missing)))
        else:
            siblings = _siblings(row, made, lambda other: _opened(other, manifest, folder, threads))
            return LoadedModel(runner, order.reason(row), tuple(passed_over), siblings)
    raise BackendMissing(
        f"no artifact of {folder} runs here",
        why="; ".join(f"{n}: {why}" for n, why in passed_over),
        fix="edgekit doctor",
    )


def _siblings(
    row: ArtifactRow, made: Sequence[ArtifactRow], opened: Callable[[ArtifactRow], LoadedModel]
) -> dict[tuple[int, int], Callable[[], LoadedModel]]:
    """Files of a folder that differ from one in their image size alone; each is opened once, when it is needed."""
    if row.preprocess is None or row.preprocess.sides:
        return {}
    alike = [other for other in made if _kind(other) == _kind(row) and other.preprocess and not other.preprocess.sides]
    return {
        other.preprocess.input_size: cache(partial(opened, other))
        for other in alike
        if other.preprocess and other.preprocess.input_size != row.preprocess.input_size
    }


def _kind(row: ArtifactRow) -> tuple[object, ...]:
    """Everything but the size that tells artifacts of a folder apart."""
    names = [spec.name for spec in row.inputs]
    return row.format, row.precision, row.variant, row.arithmetic, "nncf" in row.tools, names


def _opened(row: ArtifactRow, manifest: Manifest, folder: Path, threads: int | None) -> LoadedModel:
    runner = get_backend(row.format).runner(artifact_of(row, manifest, folder), threads)
    return LoadedModel(runner, f"{row.name} is for the size that was given")


@dataclass(frozen=True)
class _Order:
    """The artifacts of a folder in the order of trial, and how that came about: `how` is a clause."""

    rows: list[ArtifactRow]
    chosen: str | None
    how: str
    otherwise: str  # of a row that is not the chosen one

    def reason(self, row: ArtifactRow) -> str:
        """Why the row is opened, in one sentence."""
        if row.name == self.chosen:
            return f"{row.name} {self.how}"
        first = f"{self.chosen}, which {self.how}, does not run here; " if self.chosen else ""
        return f"{first}{row.name} is the first of {len(self.rows)} artifacts that runs here, {self.otherwise}"


def _order(manifest: Manifest, made: list[ArtifactRow]) -> _Order:
    """The recorded choice first where it holds on this machine.

    What is fastest holds for the machine that measured it. The smallest file is the smallest everywhere, and so is the
    truest; and what is too far from the float features is so on every machine.
    """
    choice = manifest.choice
    rows = sorted(made, key=lambda row: (not _true_enough(row, choice), *_rank(row)))
    if choice is None or choice.artifact is None:
        why = "fastest kind first" if choice is None else "fastest kind first: measuring found none fit to choose"
        return _Order(rows, None, "", why)
    run = next((run for run in manifest.runs if run.id == choice.run), None)
    host = _words(run.host if run else manifest.host)
    here = _is_here(run.host if run else manifest.host)
    if not here and choice.goal == "latency":
        why = f"fastest kind first: {choice.artifact} was the choice of {host}, and this is another machine"
        return _Order(rows, None, "", f"{why} (edgekit bench OUT --save measures here)")
    if here:  # what comes next where the choice does not run was measured, too
        times = {row.name: row.latency["p50_ms"] for row in rows if row.latency}
        rows.sort(key=lambda row: (not _true_enough(row, choice), times.get(row.name, float("inf"))))
    rows.sort(key=lambda row: row.name != choice.artifact)
    when = f", {run.date[:10]}" if run else ""
    on = f"on this machine ({host}{when})" if here else f"on another machine ({host}{when})"
    how = f"was chosen for its {choice.goal} by measurement {on}"
    return _Order(rows, choice.artifact, how, "fastest measured first" if here else "fastest kind first")


def _true_enough(row: ArtifactRow, choice: Choice | None) -> bool:
    """Whether a row drifts no more than the choice was allowed to; unknown drift is none."""
    if choice is None or row.drift is None:
        return True
    if choice.max_drop is None:
        return row.drift.get("grade", "good") in ("excellent", "good")
    return bool(1 - row.drift.get("cls_cosine_mean", 1.0) <= choice.max_drop)


def _is_here(host: dict[str, Any]) -> bool:
    from edgekit.host import describe_host

    return describe_host().same_machine(host)


def _words(host: dict[str, Any]) -> str:
    cores = host.get("cores_usable")
    return f"{host.get('cpu', 'an unknown CPU')}{f', {cores} cores' if cores else ''}"


def _for_this_kind_of_machine(row: ArtifactRow) -> bool:
    """Whether an artifact is made for CPUs at all."""
    return row.precision not in get_backend(row.format).untimed_precisions


def _rank(row: ArtifactRow) -> tuple[object, ...]:
    """Place in the order of trial: last what NNCF quantized, which is made to be compared with, then slow formats."""
    slow = get_backend(row.format).untimed() is not None
    own = row.arithmetic != "plan"
    return "nncf" in row.tools, speed_rank(row.precision, row.variant), slow, own, list(FORMATS).index(row.format)


def artifact_at(path: Path) -> Artifact:
    """Description of a file from the manifest of the build folder around `path`, else from the file's own metadata."""
    format_ = format_of_suffix(path.suffix)
    if format_ is None:
        known = ", ".join(get_backend(each).suffix for each in FORMATS)
        raise DataError(f"{path} is no artifact", why=f"known are {known}", fix="edgekit build --out OUT")
    if not path.is_file() and not path.is_dir():
        why = "it is neither a file nor a folder" if path.exists() else ""
        raise DataError(
            f"{path} does not exist" if not why else f"{path} cannot be opened", why=why, fix="edgekit build --out OUT"
        )
    if listed := _listed(path):
        return artifact_of(*listed)
    return get_backend(format_).read(path)


def _path(path: object) -> Path:
    """Argument of `load` as a path."""
    given = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(given, str) or not given or "\0" in given:
        raise DataError(
            f"edgekit.load was given {shown(path)}",
            why="it takes the path of an artifact or build folder",
            fix='edgekit.load("OUT")',
        )
    try:
        os.stat(given)
    except FileNotFoundError:
        pass  # `artifact_at` says so
    except OSError as error:
        raise DataError(
            f"{given[:200]} cannot be opened", why=error.strerror or str(error), fix=f"ls -l {given[:200]}"
        ) from None
    return Path(given)


def require_threads(threads: int | None) -> None:
    """Raises DataError unless `threads` is None or a number that a runtime can start."""
    number = isinstance(threads, int | np.integer) and not isinstance(threads, bool)
    if threads is not None and not (number and 1 <= threads <= MOST_THREADS):
        raise DataError(
            f"threads = {shown(threads)}",
            why=f"it is a number from 1 to {MOST_THREADS}",
            fix="leave it out: the runtime then chooses",
        )


def _listed(path: Path) -> tuple[ArtifactRow, Manifest, Path] | None:
    """The row of `path` in the build folder around it, with that manifest and folder."""
    for folder in dict.fromkeys((*path.absolute().parents[:2], *path.resolve().parents[:2])):
        if (folder / "manifest.json").is_file():
            manifest = Manifest.read(folder)
            for row in sorted(manifest.artifacts, key=lambda row: row.arithmetic != "plan"):
                if row.path is not None and (folder / row.path).resolve() == path.resolve():
                    return row, manifest, folder
    return None
