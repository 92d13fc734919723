"""NNCF as a second quantization engine: an FP32 OpenVINO artifact and calibration images in, its INT8 artifact out."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgekit.artifact import Artifact
from edgekit.errors import BackendMissing, DataError, DriftExceeded, ExportError
from edgekit.files import atomic_path, sha256_of, size_mb_of

if TYPE_CHECKING:
    import openvino as ov

_INSTALL = "pip install 'edgekit[openvino]'"
_POOLED = "pooler_output"


@dataclass(frozen=True)
class NncfOptions:
    """Options of NNCF for a transformer; everything else is its own default.

    `preset`: "mixed" quantizes activations asymmetrically, "performance" symmetrically. `smooth_quant_alpha` in 0..1,
    -1 for none, None for NNCF's own (0.95; none under accuracy control, which in NNCF 3.4 puts the original weights
    back behind smoothed activations). `max_drop`: accuracy control puts layers back into float, the worst first,
    until 1 - (mean CLS cosine with the float model on held-out images) is below it.
    `overflow`: "half-range" writes 7-bit weights, for x86 CPUs without VNNI.
    """

    preset: Literal["mixed", "performance"] = "mixed"
    smooth_quant_alpha: float | None = None
    bias_correction: Literal["fast", "full", "off"] = "fast"
    overflow: Literal["none", "half-range"] = "none"
    max_drop: float | None = None


def nncf_missing() -> str | None:
    """None when NNCF runs here; else what is missing and the command that mends it."""
    absent = [name for name in ("openvino", "nncf") if not find_spec(name)]
    return f"{' and '.join(absent)} not installed: {_INSTALL}" if absent else None


def nncf_quantize(
    source: Artifact,
    calibration: np.ndarray,
    path: Path,
    options: NncfOptions = NncfOptions(),
    held_out: np.ndarray | None = None,
) -> Artifact:
    """Post-training quantization of `source` by NNCF, as its users run it for transformers.

    Args:
        source: openvino/fp32.
        calibration: (n, 3, H, W) float32, preprocessed as `source` wants it.
        path: of the `.xml` to write.
        options: see NncfOptions.
        held_out: (m, 3, H, W) images that calibration did not see; accuracy control measures its drop on them.

    Raises:
        BackendMissing: NNCF is not installed.
        DataError: no calibration images, or none held out although a drop is to be controlled.
        DriftExceeded: accuracy control ended above `max_drop`.
        ExportError: `source` is not a float OpenVINO artifact, or NNCF failed.
    """
    if problem := nncf_missing():
        raise BackendMissing(problem, fix=_INSTALL)
    if source.format != "openvino" or source.precision != "fp32":
        raise ExportError(
            f"NNCF quantizes an openvino/fp32 artifact, not {source.name}",
            fix="edgekit export --format openvino --precision fp32 --out OUT",
        )
    if not len(calibration):
        raise DataError("NNCF has no calibration images", fix="--calib DIR")
    if options.max_drop is not None and (held_out is None or not len(held_out)):
        raise DataError(
            f"a drop of at most {options.max_drop} cannot be controlled without held-out images", fix="--eval DIR"
        )
    import nncf
    import openvino as ov

    from edgekit.backends.openvino.metadata import stamp

    model = ov.Core().read_model(source.path)
    try:
        if options.max_drop is None or held_out is None:
            quantized = nncf.quantize(model, _dataset(calibration), **_arguments(options, len(calibration)))
        else:
            quantized = _within_drop(model, _dataset(calibration), _held_out_dataset(model, held_out), options)
    except (RuntimeError, nncf.InternalError, nncf.ValidationError) as error:
        raise ExportError(f"NNCF {nncf.__version__} could not quantize {source.name}", why=str(error)) from error
    _name_by_position(quantized)
    described = source.model_copy(
        update={
            "name": "openvino/w8a8_nncf",
            "precision": "w8a8",
            "arithmetic": "default",  # a peer is run as its own tools run it
            "tools": source.tools | {"nncf": nncf.__version__},
            "notes": (f"quantized by NNCF, not by edgekit's plan: {asdict(options)}",),
        }
    )
    stamp(quantized, described.model_dump(mode="json"))
    with atomic_path(path) as temporary:
        ov.save_model(quantized, temporary, compress_to_fp16=False)
    return described.model_copy(update={"path": path, "sha256": sha256_of(path), "size_mb": size_mb_of(path)})


def _arguments(options: NncfOptions, images: int) -> dict[str, Any]:
    """NNCF's arguments for these options."""
    import nncf
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        AdvancedSmoothQuantParameters,
        OverflowFix,
    )

    alpha = options.smooth_quant_alpha
    if alpha is None and options.max_drop is not None:
        alpha = -1
    smooth = AdvancedSmoothQuantParameters() if alpha is None else AdvancedSmoothQuantParameters(matmul=alpha)
    return {
        "preset": nncf.QuantizationPreset(options.preset),
        "model_type": nncf.ModelType.TRANSFORMER,
        "subset_size": images,
        "fast_bias_correction": options.bias_correction != "full",
        "advanced_parameters": AdvancedQuantizationParameters(
            overflow_fix=OverflowFix.ENABLE if options.overflow == "half-range" else OverflowFix.DISABLE,
            disable_bias_correction=options.bias_correction == "off",
            smooth_quant_alphas=smooth,
        ),
    }


def _within_drop(model: ov.Model, calibration: Any, held_out: Any, options: NncfOptions) -> ov.Model:
    """Quantization with accuracy control; the drop is measured again on what comes out."""
    import nncf

    assert options.max_drop is not None
    arguments = _arguments(options, calibration.get_length())
    arguments["advanced_quantization_parameters"] = arguments.pop("advanced_parameters")
    quantized = nncf.quantize_with_accuracy_control(
        model,
        calibration,
        held_out,
        _similarity,
        max_drop=options.max_drop,
        drop_type=nncf.DropType.ABSOLUTE,
        **arguments,
    )
    drop = 1 - _similarity(_compiled(quantized), held_out.get_data())[0]
    if drop > options.max_drop:
        raise DriftExceeded(
            f"NNCF's accuracy control ended at a drop of {drop:.6f}, above {options.max_drop}",
            fix="allow a larger drop, or use edgekit's own engine",
        )
    return quantized


def _name_by_position(model: ov.Model) -> None:
    """Name the nodes NNCF added by their place: OpenVINO numbers them by what the process did before."""
    for place, node in enumerate(model.get_ordered_ops()):
        if re.fullmatch(rf"{node.get_type_name()}_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"nncf.{node.get_type_name()}.{place}")


def _dataset(pixels: np.ndarray) -> Any:
    """One image per step: NNCF then collects statistics per image."""
    import nncf

    return nncf.Dataset([image[None] for image in np.ascontiguousarray(pixels, np.float32)])


def _held_out_dataset(model: ov.Model, pixels: np.ndarray) -> Any:
    """Items (image, class token of the float model): NNCF may ask about any subset of them."""
    import nncf

    compiled = _compiled(model)
    images = [image[None] for image in np.ascontiguousarray(pixels, np.float32)]
    return nncf.Dataset([(image, _class_token(compiled, image)) for image in images], lambda item: item[0])


def _compiled(model: ov.Model) -> ov.CompiledModel:
    import openvino as ov

    return ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def _class_token(compiled: ov.CompiledModel, image: np.ndarray) -> np.ndarray:
    pooled: np.ndarray = compiled(image)[_POOLED][0].astype(np.float64)
    return pooled


def _similarity(
    compiled: ov.CompiledModel, items: Iterable[tuple[np.ndarray, np.ndarray]]
) -> tuple[float, list[float]]:
    """Accuracy-control metric: CLS cosine with the float model, (mean, per image); 1 for the float model itself."""
    cosines = []
    for image, reference in items:
        pooled = _class_token(compiled, image)
        cosines.append(float(reference @ pooled / np.linalg.norm(reference) / np.linalg.norm(pooled)))
    return float(np.mean(cosines)), cosines
