"""Golden files: input pixels and the FP32 model's outputs, against which any artifact tests itself wherever it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.artifact import INPUT_NAME, OUTPUT_NAMES, Preprocess
from edgekit.errors import DataError, DriftExceeded
from edgekit.files import require_regular, sealed, sealed_path
from edgekit.metrics import cosine
from edgekit.precision import FACTS

if TYPE_CHECKING:
    from edgekit.backends.base import Runner

FOLDER = "golden"  # inside a build folder
INPUTS, OUTPUTS = "inputs.safetensors", "outputs.safetensors"
SIZES = "sizes.safetensors"  # of a build with files for any size


@dataclass(frozen=True)
class GoldenCheck:
    """Result of one artifact on the golden inputs; each figure is the least over the images (and tokens)."""

    images: int
    pooler_cosine: float
    token_cosine: float
    largest_difference: float  # absolute, of `last_hidden_state`


def write_golden(build: Path, pixel_values: np.ndarray, outputs: Mapping[str, np.ndarray]) -> Path:
    """Write BUILD/golden/inputs.safetensors and outputs.safetensors, their digests beside them; returns the folder.

    Args:
        build: the build folder.
        pixel_values: (B, 3, H, W) float32.
        outputs: of the FP32 reference on them: `last_hidden_state` (B, N, D), `pooler_output` (B, D).
    """
    from safetensors.numpy import save_file

    folder = build / FOLDER
    expected = {name: np.ascontiguousarray(outputs[name], np.float32) for name in OUTPUT_NAMES}
    for file, tensors in ((INPUTS, {INPUT_NAME: np.ascontiguousarray(pixel_values, np.float32)}), (OUTPUTS, expected)):
        with sealed_path(folder / file) as temporary:
            save_file(tensors, temporary)
    return folder


def golden_sizes(transform: Preprocess) -> tuple[tuple[int, int], ...]:
    """Three shapes (height, width) of golden images for files of any size: the smallest, a lying and an upright one."""
    least = (transform.sides or transform.input_size)[0]
    lying = transform.lying_size
    return tuple(dict.fromkeys((transform.nearest_size(least, least), lying, (lying[1], lying[0]))))


def write_golden_sizes(build: Path, images: Mapping[tuple[int, int], tuple[np.ndarray, np.ndarray]]) -> Path:
    """Write BUILD/golden/sizes.safetensors, its digest beside it; returns the file.

    Args:
        build: the build folder.
        images: of each size the pixels (1, 3, H, W) and the `pooler_output` (1, D) of the FP32 reference.
    """
    from safetensors.numpy import save_file

    tensors = {}
    for (height, width), (pixels, pooled) in images.items():
        tensors[f"{height}x{width}.{INPUT_NAME}"] = np.ascontiguousarray(pixels, np.float32)
        tensors[f"{height}x{width}.{OUTPUT_NAMES[1]}"] = np.ascontiguousarray(pooled, np.float32)
    with sealed_path(build / FOLDER / SIZES) as temporary:
        save_file(tensors, temporary)
    return build / FOLDER / SIZES


def read_golden_sizes(build: Path) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
    """Pixels and expected `pooler_output` of each shape.

    Raises:
        DataError: the file is missing, damaged or lacks a tensor.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = build / FOLDER / SIZES
    try:
        if path.with_name(f"{path.name}.sha256").is_file() and (damage := sealed(path)):
            raise ValueError(damage)
        tensors = load_file(path)
        pixels = [name for name in tensors if name.endswith(INPUT_NAME)]
        found = {}
        for name in pixels:
            height, width = (int(side) for side in name.partition(".")[0].split("x"))
            found[height, width] = tensors[name], tensors[name.replace(INPUT_NAME, OUTPUT_NAMES[1])]
        return found
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read", why=str(error), fix=f"edgekit build --out {build}") from None


def golden_files(build: Path) -> tuple[Path, Path]:
    """The two files, inputs first."""
    return build / FOLDER / INPUTS, build / FOLDER / OUTPUTS


def read_golden(build: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Pixels and expected outputs of a build folder.

    Raises:
        DataError: a file is missing, damaged or lacks a tensor.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    folder = build / FOLDER
    try:
        for file in golden_files(build):  # a bundle has one list of all digests instead
            if file.with_name(f"{file.name}.sha256").is_file() and (damage := sealed(file)):
                raise ValueError(damage)
            require_regular(file)
        found = load_file(folder / OUTPUTS)
        pixels, expected = load_file(folder / INPUTS)[INPUT_NAME], {name: found[name] for name in OUTPUT_NAMES}
        _require_tensors(pixels, expected)
        return pixels, expected
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise DataError(
            f"{folder} holds no golden files that can be read", why=str(error), fix=f"edgekit build --out {build}"
        ) from None


def _require_tensors(pixels: np.ndarray, expected: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError unless these are float32 images and as many features, all of them finite."""
    tensors = {
        INPUT_NAME: (pixels, 4),
        **{name: (expected[name], 3 - place) for place, name in enumerate(OUTPUT_NAMES)},
    }
    for name, (tensor, rank) in tensors.items():
        if tensor.dtype != np.float32 or tensor.ndim != rank or not tensor.size or len(tensor) != len(pixels):
            raise ValueError(f"{name} is {tensor.dtype} of shape {tensor.shape}")
        if not np.isfinite(tensor).all():
            raise ValueError(f"{name} holds NaN or infinite values")


def check_golden(build: Path, runner: Runner) -> GoldenCheck:
    """Run the golden inputs and compare with the reference.

    Raises:
        DataError: the golden files are missing, damaged or of another image size.
        DriftExceeded: not finite, or the cosine is below that of the artifact's precision in `edgekit.precision.FACTS`.
    """
    pixels, expected = read_golden(build)
    name, precision = runner.artifact.name, runner.artifact.precision
    if tuple(pixels.shape[-2:]) != runner.artifact.preprocess.input_size:
        raise DataError(
            f"the golden inputs are {pixels.shape[-2]}x{pixels.shape[-1]} pixels, {name} takes "
            + "x".join(map(str, runner.artifact.preprocess.input_size))
        )
    actual = runner(pixels)
    for output in OUTPUT_NAMES:
        if actual[output].shape != expected[output].shape:
            why = f"the golden outputs are {expected[output].shape}"
            raise DataError(
                f"{name} puts out {output} of shape {actual[output].shape}", why=why, fix=f"edgekit build --out {build}"
            )
    tokens, pooled = (cosine(actual[output], expected[output]) for output in OUTPUT_NAMES)
    difference = np.abs(actual["last_hidden_state"] - expected["last_hidden_state"]).max()
    least = float(pooled.min())
    if runner.artifact.preprocess.sides:
        least = min([least, *_cosines_of_sizes(build, runner)])
    check = GoldenCheck(len(pixels), least, float(tokens.min()), float(difference))
    if not check.pooler_cosine >= FACTS[precision].least_cosine:  # false for NaN as well
        raise DriftExceeded(
            f"{name} reaches a cosine of {check.pooler_cosine:.6f} on the golden images",
            why=f"{precision} should reach {FACTS[precision].least_cosine}",
            fix=f"edgekit explain {build}",
        )
    return check


def _cosines_of_sizes(build: Path, runner: Runner) -> list[float]:
    """Cosine of the class token of each golden shape."""
    return [
        float(cosine(runner(pixels)[OUTPUT_NAMES[1]], pooled).min())
        for pixels, pooled in read_golden_sizes(build).values()
    ]
