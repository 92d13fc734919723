"""Parity of every family of checkpoints with its own library: random weights, two sizes, one of them not square.

    python -m benchmarks.parity [--csv benchmarks/results/parity.csv]

Each model is written as its library writes it, read by edgekit, and run on the same pixels. The number is the largest
difference of all tokens, as share of the largest of them. Of timm, which is no dependency, only the keys and the way to
resize positions are compared, both written anew in `tests/support/`. Of Depth Anything it is the depth map.

    python -m benchmarks.parity --depth small,large   # other sizes of Depth Anything; Large takes 3 GB
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks.support.rows import write_csv
from edgekit.graph.torch_emitter import run_with_heads
from edgekit.heads.own import wanted_heads
from edgekit.heads.read import read_heads
from edgekit.models import zoo
from edgekit.models.checkpoint import load_checkpoint
from edgekit.models.vit import VisionTransformer, random_model
from tests.support import depth_anything, dinov2, dinov3
from tests.support.models import TINY, TINY_REG, TINY_SWIGLU

RESULTS = Path(__file__).parent / "results" / "parity.csv"
TINY_SHAPE = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
DEPTH_PIXELS = ((252, 252), (224, 350))
DEPTH_KINDS: dict[str, dict[str, object]] = {
    "relative": {},
    "metric": {"depth_estimation_type": "metric", "max_depth": 20},
}
DEPTH_FILES = {"relative": "depth_anything_v2_vit.pth", "metric": "depth_anything_v2_metric_hypersim_vit.pth"}
SIZES_14, SIZES_16 = ((70, 70), (84, 56)), ((64, 64), (96, 48))

Run = Callable[[Tensor], Tensor]  # pixels to all tokens


class Case(NamedTuple):
    """A model as its own library runs it, and how it is written."""

    family: str
    ffn: str
    keys: str
    run: Run
    write: Callable[[Path], object]
    sizes: tuple[tuple[int, int], ...]


def cases() -> Iterator[Case]:
    """Every family with every layout of its keys."""
    for registers, swiglu in ((0, False), (0, True), (4, False), (4, True)):
        theirs = dinov2.transformers_model(TINY_SHAPE, registers, swiglu)
        family = "DINOv2 with registers" if registers else "DINOv2"
        yield Case(family, _ffn(swiglu), "huggingface", _tokens(theirs), theirs.save_pretrained, SIZES_14)
    for config in (TINY, TINY_REG, TINY_SWIGLU):
        yield _timm(random_model(config))
    for kind in dinov3.KINDS:
        theirs = dinov3.random_huggingface(kind)
        yield Case("DINOv3", kind, "huggingface", _tokens(theirs), theirs.save_pretrained, SIZES_16)
        yield Case("DINOv3", kind, "official", _tokens(theirs), _saved(dinov3.official_state(theirs)), SIZES_16)
        yield Case("DINOv3", kind, "timm", _tokens(theirs), _saved(dinov3.timm_state(theirs)), SIZES_16)
        theirs = dinov3.random_huggingface(kind, width=192)
        state = {f"model.{key}": value for key, value in dinov3.official_state(theirs).items()}
        yield Case("EUPE, LingBot-Vision, vitt16", kind, "official", _tokens(theirs), _saved(state), SIZES_16)
    tips = dinov2.transformers_model(TINY_SHAPE, 1, image_size=448)
    yield Case("TIPSv2", "mlp", "huggingface", _tokens(tips), tips.save_pretrained, SIZES_14)


def _ffn(swiglu: bool) -> str:
    return "swiglu" if swiglu else "mlp"


def _tokens(theirs: nn.Module) -> Run:
    return lambda pixels: theirs(pixels).last_hidden_state


def _timm(model: VisionTransformer) -> Case:
    family = "DINOv2 with registers" if model.config.registers else "DINOv2"

    def run(pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        return dinov2.timm_tokens(model, (height, width), pixels)

    return Case(family, model.config.ffn, "timm", run, _saved(dinov2.timm_state(model)), SIZES_14)


def _saved(state: Mapping[str, Tensor]) -> Callable[[Path], object]:
    tensors = {key: value.contiguous() for key, value in state.items()}
    return lambda folder: save_file(tensors, folder / "model.safetensors")


@torch.no_grad()
def measure() -> Iterator[dict[str, object]]:
    """A row per family, layout and size."""
    for case in cases():
        with tempfile.TemporaryDirectory() as name:
            case.write(Path(name))
            model = load_checkpoint(Path(name)).model()
        for height, width in case.sizes:
            pixels = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
            expected, found = case.run(pixels), model.bake(height, width)(pixels)[0]
            apart = float((found - expected).abs().max() / expected.abs().max())
            yield _row(case.family, case.ffn, case.keys, (height, width), apart)


@torch.no_grad()
def measure_depth(size: str) -> Iterator[dict[str, object]]:
    """A row per kind, layout and image size of the depth maps of Depth Anything V2, the whole model."""
    for kind, given in DEPTH_KINDS.items():
        theirs = depth_anything.depth_model(depth_anything.SIZES[size], **given)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            theirs.save_pretrained(folder)
            official = folder / DEPTH_FILES[kind]
            torch.save(depth_anything.official_depth_keys(load_file(folder / "model.safetensors")), official)
            loaded = {"huggingface": zoo.load(folder), "official": zoo.load(official)}
        for keys, each in loaded.items():
            heads = read_heads(wanted_heads({}, True, each), each)
            each.model.config = replace(each.model.config, interpolation="size")  # transformers' for both
            for height, width in DEPTH_PIXELS:
                pixels = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1))
                expected = theirs(pixels).predicted_depth.numpy()
                found = run_with_heads(each.model.bake(height, width), heads, pixels.numpy())["predicted_depth"]
                apart = float(abs(found - expected).max() / abs(expected).max())
                yield _row(f"Depth Anything V2 {size}, {kind}", "mlp", keys, (height, width), apart)


def _row(family: str, ffn: str, keys: str, size: tuple[int, int], apart: float) -> dict[str, object]:
    pixels = f"{size[0]}x{size[1]}"
    return {"family": family, "feed_forward": ffn, "keys": keys, "pixels": pixels, "largest_difference": f"{apart:.0e}"}


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=RESULTS)
    sizes = ", ".join(depth_anything.SIZES)
    parser.add_argument("--depth", default="small,base", help=f"sizes of Depth Anything, of {sizes}, with commas")
    arguments = parser.parse_args()
    rows = []
    for row in chain(measure(), *map(measure_depth, filter(None, arguments.depth.split(",")))):
        rows.append(row)
        print(*row.values(), sep="  ", flush=True)
    write_csv(rows, arguments.csv)


if __name__ == "__main__":
    main()
