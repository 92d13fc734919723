"""Arguments of the library's calls: models by name, file or live module, and images by folder or one by one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

from edgekit.artifact import Preprocess
from edgekit.backends.pictures import rgb, several
from edgekit.images.demo import Split
from edgekit.images.preprocess import preprocess
from edgekit.images.sets import ImageSet, image_set, load_set
from edgekit.models import zoo
from edgekit.models.live import is_module, save_module

if TYPE_CHECKING:
    from torch.nn import Module

    from edgekit.backends.pictures import Picture
    from edgekit.models.vit import VisionTransformer


def size_of(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """The (height, width) in pixels that a side or a pair stands for."""
    return (image_size, image_size) if isinstance(image_size, int) else image_size


def baked(model: str | Path | Module, size: tuple[int, int]) -> tuple[VisionTransformer, Preprocess]:
    """The float model for one image size, and how pictures become its input.

    Args:
        model: a name of `edgekit models`, the path of a checkpoint, or a live torch module.
        size: (height, width) in pixels.

    Raises:
        RecipeError: an unknown name, or a size that is no multiple of the model's patch.
        DataError: the checkpoint cannot be read, or the module is of no known family.
    """
    with TemporaryDirectory(prefix="edgekit-") as folder:
        place = save_module(cast("Module", model), Path(folder)) if is_module(model) else cast("str | Path", model)
        loaded = zoo.load(place)
    return loaded.model.bake(*size), loaded.model.config.preprocess(*size)


def image_set_of(
    images: str | Path | Sequence[Picture], transform: Preprocess, *, samples: int | None, seed: int = 0, split: Split
) -> ImageSet:
    """Images ready for a model: of a folder, of the demo, or pictures that are numbered in their order.

    Raises:
        DataError: no image, or none that can be read; a picture that is none.
    """
    if isinstance(images, str | Path):
        return load_set(images, transform, samples=samples, seed=seed, split=split)
    pictures = list(several(images))[:samples]
    pixels = [preprocess(rgb(picture), transform) for picture in pictures]
    return image_set("pictures", transform, pixels, [str(number) for number in range(len(pictures))])
