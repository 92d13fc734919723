"""Explains a plan, or a build folder's plan: finds its images, takes it apart, leaves explain.json in the folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.errors import DataError
from edgekit.images import load_set
from edgekit.manifest import Manifest
from edgekit.pipeline.plans import main_plan
from edgekit.pipeline.watch import Watcher
from edgekit.plan.quant import QuantPlan
from edgekit.recipe import Recipe

if TYPE_CHECKING:
    from edgekit.quantization.explanation import Explanation


def explain_target(
    target: Path, evaluation: str, *, samples: int, seed: int, steps: bool, saturation: bool, watcher: Watcher
) -> Explanation:
    """Explain `target`, a plan file or a build folder.

    Args:
        target: OUT, whose w8a8 plan is taken if it has one, or a plan file: OUT/plan/int8_weights.safetensors.
        evaluation: folder of images, or "demo".
        samples: how many of them.
        seed: of the draw.
        steps: also quantize again without each step, with the model and images of the build's recipe.
        saturation: also emulate a saturating CPU.
        watcher: is told what is being done.

    Raises:
        DataError: no such plan, or `steps` for something that is no build folder.
    """
    import torch

    from edgekit.quantization.explain import explain

    folder = target if target.is_dir() else None
    path = main_plan(folder) if folder else target
    if path is None or not path.exists():
        raise DataError(
            f"{target} holds no plan",
            why="one is made with the precision w8a8",
            fix=f"edgekit build --precision fp32,w8a8 --out {target}",
        )
    if steps and folder is None:
        raise DataError(
            f"{target} is a plan file: the steps need the recipe of its build folder", fix="edgekit explain OUT --steps"
        )
    plan = QuantPlan.load(path)
    manifest = Manifest.read(folder) if folder else None
    normalize = Recipe.make(manifest.recipe).normalize if manifest else "host"
    whole = (
        next((row.preprocess.whole_image for row in manifest.artifacts if row.preprocess), None) if manifest else None
    )
    transform = plan.config.preprocess(*plan.image_size, normalize=normalize).model_copy(update={"whole_image": whole})
    images = load_set(
        evaluation,
        transform,
        samples=samples,
        seed=seed,
        split="evaluation",
        progress=lambda done, total: watcher.stage("images", done, total),
    )
    found = explain(plan, torch.from_numpy(images.pixel_values), saturation=saturation, progress=watcher.stage)
    if steps and folder and manifest:
        found = found.model_copy(update={"steps": _steps(manifest, folder, watcher)})
    if folder:
        found.write(folder)
    return found


def _steps(manifest: Manifest, folder: Path, watcher: Watcher) -> dict[str, dict[str, float]]:
    """Ablation with the model, the calibration and the evaluation images of a build."""
    from edgekit.pipeline.context import BuildContext
    from edgekit.quantization.ablate import ablate

    recipe = Recipe.make(manifest.recipe)
    context = BuildContext.load(recipe, folder, watcher)
    size = recipe.main_size
    return ablate(
        context.inputs.model(size),
        context.inputs.calibration(size).pixel_values,
        context.inputs.evaluation(size).pixel_values,
        recipe.quantize,
        progress=lambda what, done, total: watcher.stage(f"quantize {what}", done, total),
    )
