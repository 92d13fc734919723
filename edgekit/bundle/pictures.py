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
    for source in sorted(path for path in PICTURES.iterdir() if path.suffix in _SUFFIXES):
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
        expected = load_file(golden / EXPECTED)
    except (OSError, SafetensorError) as error:
        fix = "edgekit bundle OUT --to BUNDLE"
        raise DataError(f"{golden} holds no golden pictures", why=str(error), fix=fix) from None
    files = sorted(path for path in (golden / FOLDER).iterdir() if path.suffix in _SUFFIXES)
    return tuple(
        _check(file, model, expected[f"{file.stem}.crop"], expected[f"{file.stem}.pooler_output"]) for file in files
    )


def _check(file: Path, model: LoadedModel, crop: np.ndarray, pooled: np.ndarray) -> PictureCheck:
    transform = model.artifact.preprocess
    if crop.shape[:2] != transform.input_size:
        raise DataError(
            f"the golden pictures are cropped to {crop.shape[:2]}, {model.artifact.name} takes {transform.input_size}"
        )
    if model.artifact.inputs[0].name == IMAGE_NAME:
        return PictureCheck(file.name, None, float(cosine(model(file)["pooler_output"][0], pooled)))
    pixel_values = preprocess(file, transform)  # a file for any size would take the picture whole
    difference = mean_difference(to_pixels(pixel_values, transform), crop)
    return PictureCheck(file.name, difference, float(cosine(model(pixel_values[None])["pooler_output"][0], pooled)))


def mean_difference(crop: np.ndarray, expected: np.ndarray) -> float:
    """Mean absolute difference of two uint8 crops, in levels."""
    return float(np.abs(crop.astype(np.int16) - expected).mean())


def worst(checks: Sequence[PictureCheck]) -> PictureCheck:
    """The one with the lowest cosine (NaN is lower than any)."""
    return min(checks, key=lambda check: check.cosine if check.cosine == check.cosine else -1.0)
