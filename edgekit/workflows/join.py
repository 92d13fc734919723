"""Makes one Core ML package for several image sizes out of a build: the main size's plan serves all of them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.artifact import Artifact
from edgekit.backends.coreml.backend import CoreMlBackend
from edgekit.backends.coreml.sizes import join_packages
from edgekit.errors import ExportError
from edgekit.manifest import Manifest
from edgekit.measure.drift import DriftReport
from edgekit.pipeline.context import BuildContext
from edgekit.pipeline.jobs import Job, Size
from edgekit.pipeline.make import drift_of
from edgekit.pipeline.watch import Watcher
from edgekit.precision import Precision
from edgekit.recipe import Recipe

if TYPE_CHECKING:
    from edgekit.models.vit import VisionTransformer
    from edgekit.plan.quant import QuantPlan


@dataclass(frozen=True)
class Joined:
    """One size of a joined package, and how far its features are from the float model's at that size."""

    artifact: Artifact
    drift: DriftReport


def join_sizes(
    build: Path, path: Path, *, precision: Precision, sizes: Sequence[Size], samples: int, watcher: Watcher
) -> tuple[Joined, ...]:
    """Write `path`, an .mlpackage with a function per size, and measure every function.

    Args:
        build: a build folder, whose recipe names the model and whose plan is used.
        path: of the package.
        precision: of its weights and inputs.
        sizes: (height, width) in pixels; the first is the one that runs unasked.
        samples: evaluation images for each size.
        watcher: is told what is being done.

    Raises:
        DataError: no build folder.
        BackendMissing: coremltools is not installed.
        ExportError: fewer than two sizes, or a rotated plan, whose position embedding belongs to its size.
    """
    recipe = Recipe.make(Manifest.read(build).recipe)
    recipe = recipe.model_copy(update={"evaluation_samples": samples})
    context = BuildContext.load(recipe, build, watcher)
    backend = CoreMlBackend()
    name = backend.filename(precision, "standard")
    path_in_build = f"{backend.format}/{name}"
    main = context.source(Job(backend.format, precision, "standard", recipe.main_size, "", path_in_build))
    with tempfile.TemporaryDirectory(dir=path.parent if path.parent.is_dir() else None) as folder:
        apart = []
        for size in sizes:
            watcher.stage(f"{backend.format}/{precision} {size[0]}x{size[1]}")
            model = context.inputs.model(size)
            plan = main.plan and at_size(main.plan, model)
            source = replace(main, model=model, preprocess=context.inputs.preprocess(size), plan=plan)
            apart.append(backend.export(source, precision, "standard", Path(folder, f"{size[0]}x{size[1]}", name)))
        joined = join_packages(apart, path)
    jobs = [Job(backend.format, precision, "standard", size, "", path_in_build) for size in sizes]
    return tuple(
        Joined(artifact, drift_of(backend.runner(artifact), job, context, watcher))
        for artifact, job in zip(joined, jobs, strict=True)
    )


def at_size(plan: QuantPlan, model: VisionTransformer) -> QuantPlan:
    """The same integers and ranges for another image size: only the position embedding is another.

    Args:
        plan: of any size, not rotated.
        model: the same checkpoint, baked for the size that is wanted.

    Raises:
        ExportError: the plan is rotated, and its position embedding with it.
    """
    if "unrotate" in plan.float_tensors:
        raise ExportError(
            "a rotated plan cannot be used at another image size",
            why="its position embedding is rotated",
            fix='rotate = "off" in the recipe',
        )
    height, width = (side * model.config.patch for side in model.config.grid)
    position = {} if model.rotation is not None else {"pos_embed": model.pos_embed.detach().numpy()}
    return replace(
        plan,
        config=replace(plan.config, grid=model.config.grid),
        image_size=(height, width),
        float_tensors={**plan.float_tensors, **position},
    )
