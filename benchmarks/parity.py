"""Parity of DINOv3 and Depth Anything with transformers: random weights, two sizes, one of them not square.

    python -m benchmarks.parity                       # DINOv3, and Depth Anything Small and Base
    python -m benchmarks.parity --depth small,large   # other sizes of Depth Anything; Large takes 3 GB

Prints the largest difference of all tokens, or of the depth map, as share of the largest of them.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from edgekit.graph.torch_emitter import run_with_heads
from edgekit.heads.own import wanted_heads
from edgekit.heads.read import read_heads
from edgekit.models import zoo
from edgekit.models.checkpoint import load_checkpoint
from tests.support.depth_anything import SIZES as DEPTH_SIZES
from tests.support.depth_anything import depth_model, official_depth_keys
from tests.support.dinov3 import KINDS, official_state, random_huggingface, timm_state

SIZES = ((64, 64), (96, 48))
DEPTH_PIXELS = ((252, 252), (224, 350))
DEPTH_KINDS: dict[str, dict[str, object]] = {
    "relative": {},
    "metric": {"depth_estimation_type": "metric", "max_depth": 20},
}
OFFICIAL = {"relative": "depth_anything_v2_vit.pth", "metric": "depth_anything_v2_metric_hypersim_vit.pth"}
Row = tuple[str, str, str, float]  # model, keys, image size, largest difference


def dinov3() -> Iterator[Row]:
    """All tokens of each key layout."""
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
                yield f"DINOv3 {kind}", keys, f"{height}x{width}", apart


def depth_anything(size: str) -> Iterator[Row]:
    """The depth map of the whole model, official and Hugging Face keys."""
    for kind, given in DEPTH_KINDS.items():
        theirs = depth_model(DEPTH_SIZES[size], **given)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            theirs.save_pretrained(folder)
            official = folder / OFFICIAL[kind]
            torch.save(official_depth_keys(load_file(folder / "model.safetensors")), official)
            loaded = {"huggingface": zoo.load(folder), "official": zoo.load(official)}
        for keys, each in loaded.items():
            heads = read_heads(wanted_heads({}, True, each), each)
            each.model.config = replace(each.model.config, interpolation="size")  # transformers' for both
            for height, width in DEPTH_PIXELS:
                pixels = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1))
                expected = theirs(pixels).predicted_depth.numpy()
                found = run_with_heads(each.model.bake(height, width), heads, pixels.numpy())["predicted_depth"]
                apart = float(abs(found - expected).max() / abs(expected).max())
                yield f"Depth Anything V2 {size}, {kind}", keys, f"{height}x{width}", apart


@torch.no_grad()
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", default="small,base", help=f"of {', '.join(DEPTH_SIZES)}, with commas")
    arguments = parser.parse_args()
    print("model                              keys         size     largest difference")
    rows = [dinov3(), *(depth_anything(size) for size in filter(None, arguments.depth.split(",")))]
    for row in (row for table in rows for row in table):
        model, keys, size, apart = row
        print(f"{model:33}  {keys:11}  {size:7}  {apart:.1e}", flush=True)


if __name__ == "__main__":
    main()
