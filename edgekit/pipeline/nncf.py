"""Makes the INT8 artifact of NNCF, the second quantization engine, which is built to be compared with ours."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from edgekit.artifact import Artifact
from edgekit.backends import get_backend
from edgekit.backends.openvino.nncf import NncfOptions, nncf_quantize
from edgekit.cpu import cpu_saturates
from edgekit.pipeline.context import BuildContext
from edgekit.pipeline.jobs import Job
from edgekit.precision import REFERENCE
from edgekit.recipe import Recipe

_HELD_OUT = 4  # one in this many calibration images judges the drop under accuracy control


def options_of(recipe: Recipe) -> NncfOptions:
    """Options of NNCF for a recipe: half the range where products saturate, and the largest drop."""
    ours, theirs = recipe.quantize, recipe.nncf
    halved = ours.overflow == "reduce-range" or (ours.overflow == "auto" and cpu_saturates())
    return NncfOptions(
        preset=theirs.preset,
        smooth_quant_alpha=theirs.smooth_quant_alpha,
        overflow="half-range" if halved else "none",
        max_drop=ours.max_drop,
    )


def make_nncf(job: Job, context: BuildContext) -> Artifact:
    """Export the FP32 model and let NNCF quantize it on the images that our own engine calibrates on.

    Under accuracy control a quarter of them is held out to measure the drop: the evaluation images stay unseen.

    Raises:
        BackendMissing, DataError, DriftExceeded, ExportError: as `nncf_quantize`.
    """
    options, backend = options_of(context.recipe), get_backend(job.format)
    images = context.inputs.calibration(job.size).pixel_values
    held_out = images[::_HELD_OUT] if options.max_drop is not None else None
    if held_out is not None:
        images = images[[i for i in range(len(images)) if i % _HELD_OUT]]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Windows keeps mapped weights open
        source = replace(context.source(job), heads={})  # without plan; what is compared are features
        float_path = Path(folder) / f"model{backend.suffix}"
        fp32 = backend.export(source, REFERENCE, "standard", float_path)
        return nncf_quantize(fp32, images, context.out / job.path, options, held_out)
