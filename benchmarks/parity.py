"""Parity of DINOv3's key layouts with transformers: random weights, two sizes, one of them not square.

    python -m benchmarks.parity

Prints the largest difference of all tokens as share of the largest of them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from edgekit.models.checkpoint import load_checkpoint
from tests.support.dinov3 import KINDS, official_state, random_huggingface, timm_state

SIZES = ((64, 64), (96, 48))


@torch.no_grad()
def main() -> None:
    """Print the table."""
    print("feed-forward  keys                size    largest difference")
    for kind in KINDS:
        theirs = random_huggingface(kind)
        for keys, state in (("official", official_state), ("timm", timm_state), ("huggingface", None)):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                if state is None:
                    theirs.save_pretrained(folder)
                else:
                    tensors = {key: value.contiguous() for key, value in state(theirs).items()}
                    save_file(tensors, folder / "model.safetensors")
                model = load_checkpoint(folder).model()
            for height, width in SIZES:
                pixels = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
                expected, found = theirs(pixels).last_hidden_state, model.bake(height, width)(pixels)[0]
                apart = float((found - expected).abs().max() / expected.abs().max())
                print(f"{kind:12}  {keys:18}  {height}x{width}   {apart:.1e}")


if __name__ == "__main__":
    main()
