"""Names of checkpoints that edgekit cannot build, told by their keys, and why it cannot."""

from __future__ import annotations

import re
from collections.abc import Iterable

_WINDOWED = re.compile(r"(?:^|\.)backbone\.0\.(?:encoder|projector)\.", re.MULTILINE)
_KNOWN = tuple(
    (re.compile(pattern, re.MULTILINE), name, why)
    for pattern, name, why in (
        (_WINDOWED.pattern, "RF-DETR", "its DINOv2 attends in windows"),
        (r"\.attn\.[qk]_norm\.", "a ViT with norms of queries and keys", "Depth Anything 3 is one"),
        (r"^(?:.*\.)?downsample_layers\.", "a ConvNeXt, as DINOv3 has them too", "it is a convolutional network"),
        (r"^(?:visual|vision_model|image_encoder)\.", "CLIP, SigLIP or SAM", "its vision transformer is another one"),
        (r"^(?:decoder_embed|decoder_blocks)\.", "a masked autoencoder (MAE)", "its positions and pixels are others"),
        (r"\.relative_position_bias_table$", "Swin or BEiT", "its attention has a bias for relative positions"),
        (r"^(?:dist_token|head_dist\.)", "DeiT with a distillation token", "it has a token that DINOv2 has not"),
        (r"^(?:stem|stages)\.\d", "a hierarchical network of timm", "its maps shrink from stage to stage"),
        (r"^layer4\.\d+\.conv1\.", "a ResNet", "it is a convolutional network"),
    )
)


def is_windowed(keys: Iterable[str]) -> bool:
    """Whether the keys are RF-DETR's: its backbone has DINOv2's own names, and computes something else."""
    return any(_WINDOWED.search(key) for key in keys)


def stranger(keys: Iterable[str]) -> str:
    """ "it looks like NAME: WHY" of a state dict that is none of the families, "" where nothing is known of it."""
    text = "\n".join(keys)
    found = next(((name, why) for pattern, name, why in _KNOWN if pattern.search(text)), None)
    return "" if found is None else f"it looks like {found[0]}: {found[1]}"
