"""The comparison of a QuantPlan with a model: its architecture, image size and GEMMs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.plan.quant import QuantPlan

if TYPE_CHECKING:
    from edgekit.models.config import ViTConfig

_ARCHITECTURE = ("width", "depth", "heads", "ffn", "ffn_hidden", "patch", "registers", "positions")


def misfit(plan: QuantPlan, config: ViTConfig, image_size: tuple[int, int]) -> str:
    """The reason why a plan is none of this architecture and image size, in a clause; "" where it is one."""
    if plan.image_size != image_size:
        return f"it is for images of {plan.image_size}, not {image_size}"
    for name in _ARCHITECTURE:
        mine, wanted = getattr(plan.config, name), getattr(config, name)
        if mine != wanted:
            return f"it is of a model with {name} {mine}, not {wanted}"
    shapes = _shapes(config)
    if not (plan.gemms.keys() <= shapes.keys() <= plan.gemms.keys() | plan.kept_float.keys()):
        return f"it is about {len(plan.gemms)} GEMMs, which are not those of the model"
    for name, gemm in plan.gemms.items():
        if gemm.weight.shape != shapes[name]:
            return f"the weight of {name} has shape {gemm.weight.shape}, the model's {shapes[name]}"
    return ""


def _shapes(config: ViTConfig) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of each weight GEMM by name."""
    width, hidden = config.width, config.ffn_hidden
    mlp = {"fc1": (hidden, width), "fc2": (width, hidden)}
    gated = {"w12": (2 * hidden, width), "w3": (width, hidden)}
    parts = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
    parts |= {f"mlp.{name}": shape for name, shape in (mlp if config.ffn == "mlp" else gated).items()}
    blocks = {f"blocks.{i}.{part}": shape for i in range(config.depth) for part, shape in parts.items()}
    return {"patch_embed.proj": (width, 3 * config.patch**2), **blocks}
