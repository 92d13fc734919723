"""Golden pictures: files that preprocessing gets wrong, with the crop and features they must give everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.artifact import IMAGE_NAME
from edgekit.backends.base import Runner
from edgekit.backends.loading import LoadedModel
from edgekit.errors import DataError
from edgekit.files import require_regular
from edgekit.images import preprocess, read_image, to_pixels
from edgekit.metrics import cosine

PICTURES = Path(__file__).with_name("pictures")  # odd sizes, EXIF orientation, transparency, grey, wide, large
FOLDER, EXPECTED = "pictures", "pictures.safetensors"  # inside a golden folder
_SUFFIXES = (".jpg", ".png")


@dataclass(frozen=True)
class PictureCheck:
    """One golden picture on one artifact.

    `difference` is the mean absolute one of the crops in levels of 0..255, None where the graph crops; `cosine` is of
    `pooler_output` with the FP32 model's on the reference crop.
    """

    name: str
    difference: float | None
    cosine: float


def picture_files(folder: Path) -> list[Path]:
    """Golden pictures of a folder, sorted. Raises OSError where there is no such folder."""
    return sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)


def write_pictures(golden: Path, reference: Runner) -> None:
    """Write `pictures/` and `pictures.safetensors` into a golden folder.

    Each picture lies there as the file itself and as `.ppm`: the upright 8-bit RGB it decodes to, for programs without
    decoders. The tensors of picture <name> are <name>.crop (H, W, 3) uint8 and <name>.pooler_output (D) float32.

    Args:
        golden: an existing golden folder.
        reference: a runner of the FP32 artifact.
    """
    from safetensors.numpy import save

    transform = reference.artifact.preprocess
    (golden / FOLDER).mkdir()
    tensors: dict[str, np.ndarray] = {}
    for source in picture_files(PICTURES):
        picture = read_image(source)
        (golden / FOLDER / source.name).write_bytes(source.read_bytes())
        picture.save(golden / FOLDER / f"{source.stem}.ppm")
        pixel_values = preprocess(picture, transform)
        tensors[f"{source.stem}.crop"] = to_pixels(pixel_values, transform)
        tensors[f"{source.stem}.pooler_output"] = reference(pixel_values[None])["pooler_output"][0]
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    (golden / EXPECTED).write_bytes(save(contiguous))
    (golden / "README.md").write_bytes((PICTURES / "README.md").read_bytes())


def check_pictures(golden: Path, model: LoadedModel) -> tuple[PictureCheck, ...]:
    """Let a loaded model read, preprocess and embed each golden picture.

    Raises:
        DataError: the golden pictures are missing or of another image size.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        require_regular(golden / EXPECTED)
        expected = load_file(golden / EXPECTED)
        files = picture_files(golden / FOLDER)
        found = [(file, expected[f"{file.stem}.crop"], expected[f"{file.stem}.pooler_output"]) for file in files]
        if not found:
            raise KeyError(f"{FOLDER} is empty")
    except (OSError, KeyError, SafetensorError) as error:
        fix = "edgekit bundle OUT --to BUNDLE"
        raise DataError(f"{golden} holds no golden pictures", why=str(error), fix=fix) from None
    return tuple(_check(file, model, crop, pooled) for file, crop, pooled in found)


def _check(file: Path, model: LoadedModel, crop: np.ndarray, pooled: np.ndarray) -> PictureCheck:
    transform = model.artifact.preprocess
    if crop.shape != (*transform.input_size, 3) or crop.dtype != np.uint8:
        raise DataError(
            f"the golden pictures are cropped to {crop.dtype} {crop.shape}, {model.artifact.name} takes "
            f"{transform.input_size}",
            why="they are of another image size, or damaged",
            fix="edgekit bundle OUT --to BUNDLE",
        )
    given: Path | np.ndarray = file
    difference = None
    if model.artifact.inputs[0].name != IMAGE_NAME:
        given = preprocess(file, transform)[None]  # a file for any size would take the picture whole
        difference = mean_difference(to_pixels(given[0], transform), crop)
    features = model(given)["pooler_output"][0]
    if pooled.shape != features.shape or pooled.dtype.kind != "f":
        raise DataError(
            f"the features of the golden picture {file.name} are {pooled.dtype} {pooled.shape}",
            why=f"{model.artifact.name} gives {features.shape}",
            fix="edgekit bundle OUT --to BUNDLE",
        )
    return PictureCheck(file.name, difference, float(cosine(features, pooled)))


def mean_difference(crop: np.ndarray, expected: np.ndarray) -> float:
    """Mean absolute difference of two uint8 crops, in levels."""
    return float(np.abs(crop.astype(np.int16) - expected).mean())


def worst(checks: Sequence[PictureCheck]) -> PictureCheck:
    """The one with the lowest cosine (NaN is lower than any)."""
    return min(checks, key=lambda check: check.cosine if check.cosine == check.cosine else -1.0)
