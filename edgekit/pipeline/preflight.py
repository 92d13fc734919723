"""The dry run: a request with its paths made absolute, and whether its inputs are readable and fit each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from edgekit.errors import BackendMissing, DataError, RecipeError
from edgekit.heads.own import own_kind, remarks, wanted_heads
from edgekit.heads.read import read_head, read_heads
from edgekit.images.demo import DEMO, Split
from edgekit.images.sets import ImageSet, load_set
from edgekit.manifest import Manifest
from edgekit.models import zoo
from edgekit.models.config import ViTConfig
from edgekit.pipeline.folder import refuse_unwritable
from edgekit.pipeline.inputs import require_sizes, samples_that_fit
from edgekit.pipeline.jobs import Job, Size, jobs_of, on_this_machine
from edgekit.pipeline.plans import kind_of, plan_file
from edgekit.pipeline.watch import Silent, Watcher
from edgekit.recipe import CalibrationRecipe, Recipe

_LOOKED_AT = 16  # images of each set that are decoded while none of them is broken
_AT_MOST = 256  # else


@dataclass(frozen=True)
class Preflight:
    """A request that can be carried out as far as can be told without doing it.

    `recipe` has absolute paths. `plans` are the files that `edgekit quantize` would write. `found` is one line each of
    the model, the images and the heads. `doomed` are artifacts that will fail or cannot be made here, by name with the
    reason. `exit_code` is what the real run would end with.
    """

    recipe: Recipe
    jobs: tuple[Job, ...]
    plans: tuple[str, ...]
    found: dict[str, str]
    doomed: dict[str, str]

    @property
    def exit_code(self) -> int:
        """1 when no artifact would be made, else 0."""
        return int(all(job.name in self.doomed for job in self.jobs))


def located(recipe: Recipe) -> Recipe:
    """The same recipe with absolute paths: what a manifest keeps of it means the same in another folder.

    Raises:
        RecipeError: its model is neither a name of the zoo nor a file or folder, or has other patches than its sizes.
    """
    if zoo.path_of(recipe.model) is None:  # of a file it is known once that is read
        require_sizes(recipe, zoo.find(recipe.model).config)
    heads = {name: _absolute(source) if own_kind(source) is None else source for name, source in recipe.heads.items()}
    source = recipe.calibration.source
    return recipe.model_copy(
        update={
            "model": zoo.place_of(recipe.model),
            "heads": heads,
            "calibration": CalibrationRecipe(source=_absolute(source), samples=recipe.calibration.samples),
            "evaluation": _absolute(recipe.evaluation),
        }
    )


def _absolute(source: str) -> str:
    """A folder of images or a file as an absolute path; the word "demo" stays."""
    if source == DEMO:
        return source
    try:
        return str(Path(source).expanduser().absolute())
    except RuntimeError:  # ~nosuchuser: a folder of that very name, then
        return str(Path(source).absolute())


def integer_jobs(jobs: Sequence[Job]) -> list[Job]:
    """Jobs that are written from a quantization plan, also where their runtime is not here.

    Raises:
        RecipeError: there is none.
    """
    found = [job for job in jobs if job.integer and job.path]
    if not found:
        raise RecipeError("no integer precision to plan", fix="--precision w8a8")
    return found


def check_request(recipe: Recipe, out: Path, *, plans_only: bool = False, watcher: Watcher | None = None) -> Preflight:
    """Look at everything that a build (or with `plans_only` a quantization) reads, in its order and with its errors.

    Nothing is written, downloaded, quantized or exported. Of each image set 16 images are decoded, and up to 256 if one
    of these cannot be.

    Raises:
        RecipeError: unknown model or head, or an impossible request.
        DataError: images, heads or checkpoint cannot be read or do not fit, `out` cannot be written or holds another
            model.
        BackendMissing: torch, or the reader of the checkpoint, is not installed.
    """
    watcher = watcher or Silent()
    jobs = jobs_of(recipe)
    own = recipe.runtime_defaults
    jobs = tuple(integer_jobs(jobs)) if plans_only else on_this_machine(jobs, runtime_defaults=own)
    recipe = located(recipe)
    refuse_unwritable(out)
    if find_spec("torch") is None:
        raise BackendMissing(f"loading {recipe.model} needs torch", fix="pip install 'edgekit[torch]'")
    watcher.stage(f"look at {recipe.model}")
    config, about = _model(recipe, out, refuse_other=not plans_only)
    found = {key: text for key, text in about.items() if text}
    doomed = {} if plans_only else {job.name: job.blocked for job in jobs if job.blocked}
    for size in dict.fromkeys(job.size for job in jobs):
        calibration, evaluation = _images(recipe, config, size, watcher, judged=not plans_only)
        suffix = "" if size == recipe.main_size else f" at {size[0]}x{size[1]}"
        found[f"calibration{suffix}"] = _described(calibration)
        if evaluation is not None:
            found[f"evaluation{suffix}"] = _described(evaluation)
        doomed |= _too_few(calibration, [job for job in jobs if job.size == size], plans_only)
    kinds = {
        (None if recipe.any_size else job.size, kind_of(job, recipe.quantize))
        for job in jobs
        if job.integer and job.path
    }
    plans = tuple(
        plan_file(kind, size, recipe.main_size)
        for size, kind in sorted(kinds, key=lambda each: (each[0] or (), each[1]))
    )
    return Preflight(recipe, jobs, plans, found, doomed)


def _model(recipe: Recipe, out: Path, *, refuse_other: bool) -> tuple[ViTConfig, dict[str, str]]:
    """Load the checkpoint and its heads if it is on this machine; of one that is not, only what its entry tells."""
    path = zoo.path_of(recipe.model)
    entry = None if path else zoo.find(recipe.model)
    if entry and entry.sources[0].cached() is None:
        zoo.refuse_gated(entry)
        if refuse_other and entry.sha256:
            refuse_other_model(out, entry.name, entry.sha256)
        for source in recipe.heads.values():
            if own_kind(source) is None:
                read_head(Path(source), entry.config)
        where = f"{entry.size_mb} MB from {entry.sources[0].describe()}"
        about = f"{entry.name}, not on this machine yet: {where}"
        return entry.config, {"model": about, "heads": ", ".join(recipe.heads)}
    loaded = zoo.load(recipe.model, **recipe.positions)
    if refuse_other:
        refuse_other_model(out, loaded.name, loaded.sha256, loaded.model.config)
    wanted = wanted_heads(recipe.heads, recipe.own_heads, loaded)
    read_heads(wanted, loaded)
    config = loaded.model.config
    about = f"{loaded.name}, {config.parameters / 1e6:.1f} M parameters, read from {path or loaded.source}"
    return config, {"model": "; ".join([about, *remarks(wanted, loaded)]), "heads": ", ".join(wanted)}


def _images(
    recipe: Recipe, config: ViTConfig, size: Size, watcher: Watcher, *, judged: bool
) -> tuple[ImageSet, ImageSet | None]:
    """The first images of both sets, as a build would draw them; more of them where some cannot be read.

    A quantization judges nothing: it has no evaluation images.
    """
    transform = config.preprocess(*size, normalize=recipe.normalize)
    samples = samples_that_fit(recipe)

    def read(source: str, split: Split, count: int, disjoint_from: ImageSet | None = None) -> ImageSet:
        return load_set(
            source,
            transform,
            samples=count,
            seed=recipe.seed,
            split=split,
            disjoint_from=disjoint_from,
            progress=lambda done, total: watcher.stage(f"{split} images", done, total),
        )

    def first(limit: int) -> tuple[ImageSet, ImageSet | None]:
        counts = [
            count if source == DEMO else min(count, limit)  # crops are cheap, and too many of them are refused
            for source, count in zip((recipe.calibration.source, recipe.evaluation), samples, strict=True)
        ]
        calibration = read(recipe.calibration.source, "calibration", counts[0])
        return calibration, read(recipe.evaluation, "evaluation", counts[1], calibration) if judged else None

    try:
        calibration, evaluation = first(_LOOKED_AT)
    except DataError:
        return first(_AT_MOST)
    broken = calibration.skipped or (evaluation and evaluation.skipped)
    return first(_AT_MOST) if broken else (calibration, evaluation)


def _described(images: ImageSet) -> str:
    """Summary of the images that were looked at and of those that cannot be read."""
    broken = "; ".join(f"{each.path}: {each.reason}" for each in images.skipped[:3])
    text = f"{images.source}: {len(images)} images looked at"
    return f"{text}, {len(images.skipped)} more cannot be read ({broken})" if broken else text


def _too_few(calibration: ImageSet, jobs: Sequence[Job], plans_only: bool) -> dict[str, str]:
    """Integer artifacts that fail because the quantizer has too few images; for a plan alone that is an error."""
    from edgekit.quantization.engine import LEAST_IMAGES

    if len(calibration) >= LEAST_IMAGES:
        return {}
    why = f"{len(calibration)} calibration images, at least {LEAST_IMAGES} are needed"
    if plans_only:
        raise DataError(f"{calibration.source} gives {why}", fix="--samples 64, of a folder that holds as many")
    return {job.name: why for job in jobs if job.integer and not job.blocked}


def refuse_other_model(out: Path, name: str, sha256: str, config: ViTConfig | None = None) -> None:
    """Raises DataError when `out` is a build folder of another checkpoint than that of `sha256`.

    The same with positions made in another way is another model, too; without a config that is not looked at.
    """
    if not (out / "manifest.json").exists():
        return
    other = Manifest.read(out).model
    if other.get("sha256") != sha256:
        raise DataError(
            f"{out} holds a build of {other.get('name')}, not of {name}",
            why="a build folder belongs to one checkpoint",
            fix="--out ANOTHER_FOLDER",
        )
    if config is None:
        return
    choice = "interpolation" if config.positions == "learned" else "rope_periods"
    wanted = getattr(config, choice)
    if (made := other.get("config", {}).get(choice, wanted)) != wanted:
        raise DataError(
            f"{out} holds a build of {name} with {choice} {made!r}, not {wanted!r}", fix="--out ANOTHER_FOLDER"
        )
