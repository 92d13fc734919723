"""A plan for images of any size, fixed to one."""

from __future__ import annotations

from dataclasses import replace

from edgekit.plan.quant import QuantPlan


def baked_plan(plan: QuantPlan, size: tuple[int, int]) -> QuantPlan:
    """The same integers and ranges at one image size (height, width): the table of positions is resized once, here.

    Args:
        plan: with the stored table of positions, in whatever basis its residual stream is.
        size: in pixels.

    Raises:
        RecipeError: a side is not a positive multiple of the patch size.
    """
    import torch

    from edgekit.models.vit import resized_positions

    grid = plan.config.grid_of(*size)
    tensors = dict(plan.float_tensors)
    if "pos_embed" in tensors:
        table = torch.from_numpy(tensors["pos_embed"])
        tensors["pos_embed"] = resized_positions(table, plan.config, grid).contiguous().numpy()
    return replace(plan, config=replace(plan.config, grid=grid), image_size=size, float_tensors=tensors)
