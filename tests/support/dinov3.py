"""Tiny DINOv3 models: random ones of transformers, and their tensors under the keys of Meta's files and of timm's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

KINDS = ("mlp", "swiglu")


def random_huggingface(kind: str, seed: int = 0, width: int = 128) -> nn.Module:
    """`DINOv3ViTModel` of two blocks with random weights; "swiglu" has the gated MLP of the "plus" sizes."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    gated = kind == "swiglu"
    config = DINOv3ViTConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=width // 64,
        num_register_tokens=4,
        use_gated_mlp=gated,
        hidden_act="silu" if gated else "gelu",
    )
    model = DINOv3ViTModel(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "lambda1" in name or ("norm" in name and name.endswith("weight")):
                parameter.copy_(1 + 0.1 * noise)
            elif parameter.ndim >= 2 and "token" not in name:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.1 * noise)
    return model


def _common(model: nn.Module) -> dict[str, Tensor]:
    """What all layouts call alike, and the blocks' tensors of Hugging Face under "N/..."."""
    state = {key.removeprefix("model."): value.clone() for key, value in model.state_dict().items()}
    names = {
        "cls_token": state.pop("embeddings.cls_token"),
        "patch_embed.proj.weight": state.pop("embeddings.patch_embeddings.weight"),
        "patch_embed.proj.bias": state.pop("embeddings.patch_embeddings.bias"),
        "norm.weight": state.pop("norm.weight"),
        "norm.bias": state.pop("norm.bias"),
    }
    return names | {key.replace("layer.", "", 1).replace(".", "/", 1): state[key] for key in state if "layer." in key}


def _packed(common: dict[str, Tensor], block: str, part: str) -> Tensor:
    tensors = [common.get(f"{block}/attention.{name}_proj.{part}") for name in "qkv"]
    width = tensors[0].shape[0] if tensors[0] is not None else 0
    return torch.cat([torch.zeros(width) if tensor is None else tensor for tensor in tensors])


def _blocks(common: dict[str, Tensor], gates: tuple[str, str, str], scales: tuple[str, str]) -> dict[str, Tensor]:
    made = {key: value for key, value in common.items() if "/" not in key}
    plain = ("fc1", "fc2")
    for block in {key.split("/")[0] for key in common if "/" in key}:
        gated = f"{block}/mlp.gate_proj.weight" in common
        first, second, last = gates if gated else ("", *plain)
        for key, value in common.items():
            if not key.startswith(f"{block}/") or "attention.q" in key or "attention.k" in key or "attention.v" in key:
                continue
            name = key.removeprefix(f"{block}/").replace("attention.o_proj", "attn.proj")
            for old, new in (("gate_proj", first), ("up_proj", second), ("down_proj", last)):
                name = name.replace(old, new)
            for number, scale in zip("12", scales, strict=True):
                name = name.replace(f"layer_scale{number}.lambda1", scale)
            made[f"blocks.{block}.{name}"] = value
        made[f"blocks.{block}.attn.qkv.weight"] = _packed(common, block, "weight")
    return made


def official_state(model: nn.Module) -> dict[str, Tensor]:
    """As facebookresearch/dinov3 names them, mask of the key bias and periods included."""
    common = _common(model)
    state = _blocks(common, ("w1", "w2", "w3"), ("ls1.gamma", "ls2.gamma"))
    width = state["cls_token"].shape[-1]
    for block in {key.split("/")[0] for key in common if "/" in key}:
        state[f"blocks.{block}.attn.qkv.bias"] = _packed(common, block, "bias")
        mask = torch.ones(3 * width)
        mask[width : 2 * width] = 0
        state[f"blocks.{block}.attn.qkv.bias_mask"] = mask
    embeddings = model.state_dict()
    state["storage_tokens"] = embeddings["embeddings.register_tokens"]
    state["mask_token"] = embeddings["embeddings.mask_token"][0]
    state["rope_embed.periods"] = 100 ** (2 * torch.arange(16, dtype=torch.float32) / 32)
    return state


def timm_state(model: nn.Module) -> dict[str, Tensor]:
    """As timm's `Eva` names them, with biases of queries and values (its `..._qkvb` models)."""
    common = _common(model)
    state = _blocks(common, ("fc1_g", "fc1_x", "fc2"), ("gamma_1", "gamma_2"))
    for block in {key.split("/")[0] for key in common if "/" in key}:
        for name in "qv":
            state[f"blocks.{block}.attn.{name}_bias"] = common[f"{block}/attention.{name}_proj.bias"]
    state["reg_token"] = model.state_dict()["embeddings.register_tokens"]
    return state
