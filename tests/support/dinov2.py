"""Random DINOv2 models of transformers, and the keys and the resizing of positions of timm."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekit.models.vit import VisionTransformer


def transformers_model(shape: dict[str, int], registers: int, swiglu: bool = False, image_size: int = 518) -> nn.Module:
    """Random weights of every kind, LayerScale of order one."""
    from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    torch.manual_seed(0)
    common = {**shape, "image_size": image_size, "patch_size": 14, "use_swiglu_ffn": swiglu}
    if registers:
        model: nn.Module = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**common, num_register_tokens=registers))
    else:
        model = Dinov2Model(Dinov2Config(**common))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def timm_state(model: VisionTransformer) -> dict[str, Tensor]:
    """As timm stores DINOv2: no mask token, the position in the class token where there are registers, fc1 for w12."""
    state = {key: value.clone() for key, value in model.state_dict().items() if key != "mask_token"}
    if "register_tokens" in state:
        state["reg_token"] = state.pop("register_tokens")
        positions = state.pop("pos_embed")
        state["cls_token"] = state["cls_token"] + positions[:, :1]
        state["pos_embed"] = positions[:, 1:].clone()
    return {key.replace("mlp.w12", "mlp.fc1").replace("mlp.w3", "mlp.fc2"): value for key, value in state.items()}


def timm_tokens(model: VisionTransformer, size: tuple[int, int], pixels: Tensor) -> Tensor:
    """All tokens with timm's `resample_abs_pos_embed`: bicubic, antialias, to the target size."""
    rows, columns = (side // 14 for side in size)
    square = model.config.grid[0]
    grid = model.pos_embed[:, 1:].reshape(1, square, square, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(rows, columns), mode="bicubic", antialias=True)
    positions = torch.cat([model.pos_embed[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
    resized = VisionTransformer(replace(model.config, grid=(rows, columns)))
    resized.load_state_dict({**model.state_dict(), "pos_embed": positions})
    return resized.eval()(pixels)[0]
