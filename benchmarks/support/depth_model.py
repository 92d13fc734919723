"""A Depth Anything V2 Small that has learned something, as a Hugging Face folder: a trained one has to be downloaded.

Backbone: the demo's ViT-S/14, frozen. Neck and head are transformers' own modules in the published sizes, fitted to
give the blurred brightness of a photograph as inverse depth. Random weights would not do: their output hardly changes
from place to place, and all rounding looks large beside it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgekit.artifact import Preprocess
from edgekit.images import load_set
from edgekit.models import zoo
from edgekit.models.depth_anything import taps_of
from edgekit.models.vit import VisionTransformer
from tests.support.depth_anything import SIZES, depth_model

SIDE, IMAGES, BATCH, STEPS, RATE = 112, 64, 4, 240, 1e-3
NEAR = 10.0  # the inverse depth of white; black is 0
BLUR = 7  # pixels
PROCESSOR = {  # as published beside Depth-Anything-V2-Small-hf
    "image_processor_type": "DPTImageProcessor",
    "do_resize": True,
    "size": {"height": 518, "width": 518},
    "keep_aspect_ratio": True,
    "ensure_multiple_of": 14,
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "do_pad": False,
}
_LUMA = torch.tensor([0.299, 0.587, 0.114])[None, :, None, None]


def fitted_depth_anything(folder: Path) -> Path:
    """The folder with config.json, preprocessor_config.json and model.safetensors, unless it is there; a minute."""
    if (folder / "preprocessor_config.json").is_file():
        return folder
    backbone = zoo.load("demo").model
    model = depth_model(SIZES["small"])
    _fit(model, backbone)
    model.save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    state |= {f"backbone.{key}": value for key, value in huggingface_keys(backbone).items()}
    save_file(state, folder / "model.safetensors")
    (folder / "README.md").write_text("---\nlicense: mit\n---\nA depth head fitted to brightness.\n", encoding="utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR, indent=2) + "\n", encoding="utf-8")
    return folder


def huggingface_keys(model: VisionTransformer) -> dict[str, Tensor]:
    """The tensors of a plain DINOv2 under the names of Hugging Face's files."""
    found: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        if ".attn.qkv." in key:
            block, kind = key.removeprefix("blocks.").split(".attn.qkv.")
            for name, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                found[f"encoder.layer.{block}.attention.attention.{name}.{kind}"] = part
            continue
        renamed = key
        for old, new in (
            ("pos_embed", "embeddings.position_embeddings"),
            ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
            ("cls_token", "embeddings.cls_token"),
            ("mask_token", "embeddings.mask_token"),
            ("blocks.", "encoder.layer."),
            ("attn.proj", "attention.output.dense"),
            ("ls1.gamma", "layer_scale1.lambda1"),
            ("ls2.gamma", "layer_scale2.lambda1"),
        ):
            renamed = renamed.replace(old, new)
        if renamed.startswith("norm."):
            renamed = f"layernorm.{renamed.removeprefix('norm.')}"
        found[renamed] = value
    return {key: value.detach().clone().contiguous() for key, value in found.items()}


def _fit(model: torch.nn.Module, backbone: VisionTransformer) -> None:
    """Fit neck and head of `model` on features of the demo's calibration photographs."""
    transform = Preprocess.for_size(SIDE, SIDE)
    pixels = torch.from_numpy(load_set("demo", transform, samples=IMAGES, seed=0, split="calibration").pixel_values)
    taps, wanted, grid = _features(backbone.bake(SIDE, SIDE), pixels), _brightness(pixels, transform), SIDE // 14
    torch.manual_seed(0)
    for module in (model.neck, model.head):
        module.apply(_begin)
    with torch.no_grad():
        model.head.conv3.bias.fill_(NEAR / 2)  # where ReLU lets gradients pass
    parameters = [*model.neck.parameters(), *model.head.parameters()]
    optimizer = torch.optim.AdamW(parameters)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    rng = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        chosen = torch.randint(len(pixels), (BATCH,), generator=rng)
        maps = model.neck([tokens[chosen] for tokens in taps], grid, grid)
        loss = F.smooth_l1_loss(model.head(maps, grid, grid), wanted[chosen])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 40 == 0 or step == STEPS - 1:
            print(
                f"  step {step} of {STEPS}: smooth L1 {float(loss.detach()):.3f} of a range of {NEAR:g}",
                file=sys.stderr,
            )


def _begin(module: torch.nn.Module) -> None:
    """PyTorch's own first weights, in place of the random ones of a test."""
    if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
        module.reset_parameters()


@torch.no_grad()
def _features(model: VisionTransformer, pixels: Tensor) -> list[Tensor]:
    """Normed tokens (n, 1 + P, D) behind each block that version 2 reads."""
    found: list[list[Tensor]] = [[] for _ in range(4)]
    taps = taps_of("v2", model.config.depth)
    for batch in pixels.split(8):
        x = model.embed(batch)
        for i, block in enumerate(model.blocks):
            x = block(x)
            if i in taps:
                found[taps.index(i)].append(model.norm(x))
    return [torch.cat(parts) for parts in found]


def _brightness(pixels: Tensor, transform: Preprocess) -> Tensor:
    """Inverse depths (n, SIDE, SIDE) of pixels (n, 3, SIDE, SIDE) as the model takes them."""
    mean, std = (torch.tensor(values)[None, :, None, None] for values in (transform.mean, transform.std))
    luma = ((pixels * std + mean) * _LUMA).sum(1, keepdim=True)
    return NEAR * F.avg_pool2d(luma, BLUR, 1, BLUR // 2, count_include_pad=False)[:, 0].clamp(0, 1)
