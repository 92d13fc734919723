"""Pictures of what a model sees: thumbnails, patch features as colours (PCA), and maps laid over the photo."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from edgekit.artifact import Preprocess
from edgekit.graph.heads import Task
from edgekit.images.preprocess import to_pixels
from edgekit.measure.features import Features
from edgekit.measure.heads import error_of, words_of
from edgekit.report.content import DataUri, ImagePanel

# Viridis at nine stops (van der Walt and Smith, CC0): even in lightness and readable without red-green vision.
_VIRIDIS = np.array(
    [
        (68, 1, 84),
        (71, 44, 122),
        (59, 81, 139),
        (44, 113, 142),
        (33, 144, 141),
        (39, 173, 129),
        (92, 200, 99),
        (170, 220, 50),
        (253, 231, 37),
    ],
    dtype=np.float32,
)
_THUMBNAIL, _PICTURE = 72, 224  # pixels of the longer side
_SIDE = 128  # pixels of a tile of a strip
_GAP = 4  # white pixels between tiles


def principal(flat: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (D,) and the first `count` principal axes (D, count) of rows (n, D); a sign is arbitrary and fixed here."""
    mean = flat.mean(axis=0)
    _, vectors = np.linalg.eigh(np.cov(flat - mean, rowvar=False))
    axes = vectors[:, ::-1][:, :count]
    return mean, axes * np.sign(axes[np.abs(axes).argmax(axis=0), range(count)])


@dataclass(frozen=True)
class PatchColours:
    """Three principal directions of the reference's patch tokens, with the range that becomes 0..255 in each."""

    mean: np.ndarray  # (D,)
    axes: np.ndarray  # (D, 3)
    low: np.ndarray  # (3,)
    high: np.ndarray  # (3,)

    @classmethod
    def fit(cls, patches: np.ndarray) -> PatchColours:
        """Fit on patch tokens (..., D) of all shown images at once, so that equal parts get equal colours."""
        flat = patches.reshape(-1, patches.shape[-1]).astype(np.float64)
        mean, axes = principal(flat, 3)
        scores = (flat - mean) @ axes
        low, high = np.quantile(scores, (0.01, 0.99), axis=0)
        return cls(mean, axes, low, high)

    def paint(self, patches: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
        """A picture (rows, columns, 3) uint8 of the patch tokens (P, D) of one image."""
        scores = (patches.astype(np.float64) - self.mean) @ self.axes
        unit = ((scores - self.low) / np.maximum(self.high - self.low, 1e-12)).clip(0, 1)
        painted: np.ndarray = np.rint(255 * unit).astype(np.uint8).reshape(*grid, 3)
        return painted


def data_uri(pixels: np.ndarray, *, size: tuple[int, int] | None = None, sharp: bool = False) -> DataUri:
    """A WebP data URI of a picture (H, W, 3) uint8, scaled to (width, height); `sharp` keeps the patches' edges."""
    picture = Image.fromarray(pixels)
    if size and size != picture.size:
        picture = picture.resize(size, Image.Resampling.NEAREST if sharp else Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if sharp:
        picture.save(buffer, "PNG", optimize=True)
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    picture.save(buffer, "WEBP", quality=82, method=6)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def viridis(values: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3) float32 in 0..255 of values (H, W): from dark at 0 to bright at 1."""
    position = values.clip(0, 1) * (len(_VIRIDIS) - 1)
    lower = np.minimum(position.astype(int), len(_VIRIDIS) - 2)
    weight = (position - lower)[..., None]
    colours: np.ndarray = _VIRIDIS[lower] * (1 - weight) + _VIRIDIS[lower + 1] * weight
    return colours


def depth_colours(depth: np.ndarray, limits: tuple[float, float], *, metric: bool) -> np.ndarray:
    """A picture (H, W, 3) uint8 of a depth map (H, W), near places bright.

    Args:
        depth: metres, or an inverse depth without unit.
        limits: values at the ends of the colours.
        metric: whether it is in metres, where near is small.
    """
    low, high = limits
    unit = ((depth.astype(np.float32) - low) / max(high - low, 1e-12)).clip(0, 1)
    painted: np.ndarray = np.rint(viridis(1 - unit if metric else unit)).astype(np.uint8)
    return painted


def overlay(photo: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A map (H, W) in 0..1 in viridis over the grey photo (H, W, 3) uint8."""
    colour = viridis(heat)
    grey = photo.astype(np.float32).mean(axis=-1, keepdims=True)
    mixed: np.ndarray = np.rint(0.4 * grey + 0.6 * colour).clip(0, 255).astype(np.uint8)
    return mixed


def strip(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures (H, W, 3) uint8 of one size in a row, as tiles."""
    height, width = pictures[0].shape[:2]
    size = (_SIDE, round(_SIDE * height / width))
    tiles = [np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS)) for picture in pictures]
    gap = np.full((size[1], _GAP, 3), 255, np.uint8)
    return np.concatenate([part for tile in tiles for part in (tile, gap)][:-1], axis=1)


def enlarged(picture: np.ndarray, photo: np.ndarray) -> np.ndarray:
    """A picture of one pixel per patch, enlarged to the size of the photo with sharp edges."""
    size = (photo.shape[1], photo.shape[0])
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.NEAREST))


def heat_tile(photo: np.ndarray, values: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Values in 0..1, one per patch (P,), over the photo (H, W, 3)."""
    return overlay(photo, enlarged(values.astype(np.float32).reshape(grid), photo))


def thumbnails(pixel_values: np.ndarray, preprocess: Preprocess, names: Sequence[str]) -> dict[str, DataUri]:
    """Small pictures of all evaluation images by name, from the very pixels the model was given (n, 3, H, W)."""
    photos = to_pixels(pixel_values, preprocess)
    height, width = photos.shape[1:3]
    size = _fitted(height, width, _THUMBNAIL)
    return {name: data_uri(photo, size=size) for name, photo in zip(names, photos, strict=True)}


@dataclass(frozen=True)
class Maps:
    """The maps (n, H, W) of one head by artifact name: depth, or a saliency in 0..1 that is laid over the photo."""

    task: Task
    values: Mapping[str, np.ndarray]

    @property
    def is_depth(self) -> bool:
        """Whether places have a distance, which is drawn as colours of its own."""
        return self.task in ("depth", "relative depth")

    def errors(self, image: int, reference: str) -> dict[str, str]:
        """The error of each artifact's map of an image, with measure and unit, against the reference's."""
        exact = self.values[reference][image]
        return {
            name: words_of(self.task, error_of(self.task, exact, maps[image]))
            for name, maps in self.values.items()
            if name != reference
        }


def drawn(maps: Maps | None, image: int, photo: np.ndarray) -> dict[str, np.ndarray]:
    """Pictures (h, w, 3) uint8 of the maps of one image; depths share the colours of the first, the reference's."""
    if maps is None:
        return {}
    if not maps.is_depth:
        return {name: overlay(photo, heat[image]) for name, heat in maps.values.items()}
    first = next(iter(maps.values.values()))[image]
    limits, metric = (float(first.min()), float(first.max())), maps.task == "depth"
    return {name: depth_colours(depth[image], limits, metric=metric) for name, depth in maps.values.items()}


def panels(
    pixel_values: np.ndarray,
    preprocess: Preprocess,
    features: Mapping[str, Features],
    *,
    reference: str,
    maps: Maps | None = None,
    show: Sequence[int],
) -> tuple[ImagePanel, ...]:
    """Side-by-side pictures of chosen images.

    Args:
        pixel_values: all evaluation images (n, 3, H, W), as the models got them.
        preprocess: that made them.
        features: by artifact name, of all evaluation images; `reference` must be among them.
        reference: whose patch tokens the colours are fitted on.
        maps: what a dense head puts out.
        show: which images.
    """
    if not show:
        return ()
    base = features[reference]
    size = _fitted(*base.grid, _PICTURE)
    colours = PatchColours.fit(base.patches[list(show)])
    photos = to_pixels(pixel_values, preprocess)
    return tuple(
        ImagePanel(
            name=base.names[i],
            photo=data_uri(photos[i], size=size),
            pca={name: data_uri(colours.paint(f.patches[i], f.grid), sharp=True) for name, f in features.items()},
            maps={name: data_uri(picture, size=size) for name, picture in drawn(maps, i, photos[i]).items()},
            errors=maps.errors(i, reference) if maps else {},
        )
        for i in show
    )


def _fitted(height: int, width: int, longer: int) -> tuple[int, int]:
    """Width and height in pixels of a picture of these proportions."""
    return round(longer * width / max(height, width)), round(longer * height / max(height, width))
