"""The inputs of one build: its model baked for each size, its images and its heads, each made on first use."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.artifact import Preprocess
from edgekit.errors import DataError, RecipeError
from edgekit.files import sha256_of
from edgekit.heads.own import own_heads, own_kind, remarks, wanted_heads, whole_image
from edgekit.heads.read import read_heads
from edgekit.images.folder import ImageFolder
from edgekit.images.mixture import mixture
from edgekit.images.sets import ImageSet, load_mixed, load_set
from edgekit.pipeline.jobs import Job, Size
from edgekit.pipeline.watch import Watcher
from edgekit.recipe import DYNAMIC, Recipe

if TYPE_CHECKING:
    from edgekit.models.config import ViTConfig
    from edgekit.models.vit import VisionTransformer
    from edgekit.models.zoo import LoadedModel


FEW = 4  # evaluation images at each size that is only looked at: one of 1022 pixels takes as long as 30 of 224


class BuildInputs:
    """Model, images and heads of a recipe; nothing is read or baked twice."""

    def __init__(self, recipe: Recipe, loaded: LoadedModel, watcher: Watcher) -> None:
        self.recipe, self.loaded, self.watcher = recipe, loaded, watcher
        require_sizes(recipe, loaded.model.config)
        self._samples = samples_that_fit(recipe)
        self.wanted = wanted_heads(recipe.heads, recipe.own_heads, loaded)
        self._whole_image = whole_image(self.wanted, loaded)
        self.heads = read_heads(self.wanted, loaded)
        self.remarks = tuple(remarks(self.wanted, loaded))
        for line in self.remarks:
            watcher.note(line)
        self.calibration = cache(self._calibration)
        self.mixed_calibration = cache(self._mixed_calibration)
        self.evaluation = cache(self._evaluation)
        self.model = cache(self._model)

    def preprocess(self, size: Size) -> Preprocess:
        """Preprocessing of images to input of this size."""
        transform = self.loaded.model.config.preprocess(*size, normalize=self.recipe.normalize)
        return transform.model_copy(update={"whole_image": self._whole_image})

    def transform(self, job: Job) -> Preprocess:
        """Preprocessing of a job's artifact, which says what sizes it takes."""
        return self.preprocess(job.size).model_copy(update={"sides": job.sides})

    def model_of(self, job: Job) -> VisionTransformer:
        """The float model that a job's artifact is written from: baked, but for files for any size."""
        return self.model(None if job.sides else job.size)

    def heads_key(self) -> dict[str, str]:
        """Digest of each head's file; of one that the checkpoint brings what it is taken as."""
        own = own_heads(self.loaded)
        keys = {}
        for name, source in self.wanted.items():
            if own_kind(source) is None:
                keys[name] = sha256_of(Path(source))
            else:
                keys[name] = f"{source} {own[name].title}" if own[name].kinds else source
        return keys

    def _calibration(self, size: Size) -> ImageSet:
        return load_set(
            self.recipe.calibration.source,
            self.preprocess(size),
            samples=self._samples[0],
            seed=self.recipe.seed,
            split="calibration",
            progress=lambda done, total: self.watcher.stage("calibration images", done, total),
        )

    def _mixed_calibration(self) -> list[ImageSet]:
        """The calibration images for files for any size, a set of each size and that of the main one first."""
        config, recipe = self.loaded.model.config, self.recipe
        transform = config.preprocess(*recipe.main_size, normalize=recipe.normalize, sides=recipe.any_size)
        sizes = mixture(transform, self._samples[0])
        sets = load_mixed(
            recipe.calibration.source,
            [self.preprocess(size) for size in sizes],
            seed=recipe.seed,
            progress=lambda done, total: self.watcher.stage("calibration images of several sizes", done, total),
        )
        return sorted(sets, key=lambda images: images.preprocess.input_size != recipe.main_size)

    def few(self, size: Size) -> ImageSet:
        """The first evaluation images at a size that is only looked at, to tell how drift changes with it."""
        return load_set(
            self.recipe.evaluation,
            self.preprocess(size),
            samples=min(FEW, self._samples[1]),
            seed=self.recipe.seed,
            split="evaluation",
            disjoint_from=self.calibration(self.recipe.main_size),
        )

    def _evaluation(self, size: Size) -> ImageSet:
        images = load_set(
            self.recipe.evaluation,
            self.preprocess(size),
            samples=self._samples[1],
            seed=self.recipe.seed,
            split="evaluation",
            disjoint_from=self.calibration(size),
            progress=lambda done, total: self.watcher.stage("evaluation images", done, total),
        )
        seen = {image.tobytes() for image in self.calibration(size).pixel_values}
        if known := sum(image.tobytes() in seen for image in images.pixel_values):
            self.watcher.note(f"{known} of {len(images)} evaluation images were calibrated on: the drift flatters")
        return images

    def _model(self, size: Size | None) -> VisionTransformer:
        """Baked for one size, None for any, with the normalisation folded in when the recipe wants it in the graph."""
        from edgekit.surgery.fold_normalization import fold_normalization

        model = self.loaded.model.bake(*size) if size else deepcopy(self.loaded.model).eval()
        transform = self.preprocess(size or self.recipe.main_size)
        if transform.normalize == "graph":
            fold_normalization(model, transform.mean, transform.std)
        return model


def require_sizes(recipe: Recipe, config: ViTConfig) -> None:
    """Raises RecipeError where a model cannot take the sizes of a recipe; names the nearest that it can."""
    for size in recipe.image_size:
        config.grid_of(*size)
    if recipe.any_size is None:
        return
    least, most = recipe.any_size
    inner = -(-least // config.patch) * config.patch, most // config.patch * config.patch
    fits = inner[0] <= inner[1] and not any(side % config.patch for side in recipe.main_size)
    if not fits or not all(inner[0] <= side <= inner[1] for side in recipe.main_size):
        whole = f"{inner[0]}-{max(inner)}"
        raise RecipeError(
            f"no file takes sides from {least} to {most} pixels and is compared at {recipe.main_size[0]}",
            why=f"sides are multiples of {config.patch}, and the main size is one of them",
            fix=f"--image-size {DYNAMIC}:{whole}",
        )


def samples_that_fit(recipe: Recipe) -> tuple[int, int]:
    """Numbers of images that calibrate and that judge: as asked, or fewer when one folder must serve for both.

    Raises:
        DataError: the folder is missing, or holds fewer than three images, too few for both.
    """
    asked = recipe.calibration.samples, recipe.evaluation_samples
    source, evaluation = recipe.calibration.source, recipe.evaluation
    if "demo" in (source, evaluation) or Path(source).resolve() != Path(evaluation).resolve():
        return asked
    found = len(ImageFolder.scan(Path(source)).paths)
    if found < 3:
        raise DataError(
            f"{source} holds {found} images, too few to calibrate on some and judge on others",
            fix="name a second folder with --eval",
        )
    if found >= sum(asked):
        return asked
    judges = min(asked[1], max(found // 3, found - asked[0]))  # calibration first, but never more than two thirds
    return found - judges, judges
