"""Reads head checkpoints: which head a file holds is told by its keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.artifact import IMAGE_NAME, INPUT_NAME, OUTPUT_NAMES
from edgekit.errors import DataError, RecipeError
from edgekit.graph.heads import Head
from edgekit.heads.classification import LinearClassifier, NearestNeighbours
from edgekit.heads.depth import LinearDepth
from edgekit.heads.dpt import DptDepth
from edgekit.heads.segmentation import LinearSegmenter
from edgekit.models.config import DinoV2Config

if TYPE_CHECKING:
    from edgekit.models.zoo import LoadedModel

OWN = "model"  # in place of a path: the head that the model's checkpoint brings along
_KITTI, _NYU = 80.0, 10.0  # metres, the farthest of the official depth heads
_KNOWN = "weight (linear classifier), gallery (k-NN), conv_seg.weight, conv_depth.weight, or a DPT's"


def read_heads(wanted: Mapping[str, str], loaded: LoadedModel) -> dict[str, Head]:
    """The heads of a recipe: {output name: path, or "model" for the one in the checkpoint}.

    Raises:
        RecipeError: a name is taken, or the model brings no such head.
        DataError: a file is missing, damaged, no head, or for another backbone.
    """
    heads: dict[str, Head] = {}
    taken = {INPUT_NAME, IMAGE_NAME, *OUTPUT_NAMES, *loaded.model.state_dict()}
    for name, source in wanted.items():
        if name in taken or not name.isidentifier():
            raise RecipeError(f"{name!r} cannot be the name of a head's output", fix="--heads cls=head.pth")
        if source != OWN:
            heads[name] = read_head(Path(source), loaded.model.config)
        elif name in loaded.heads:
            from edgekit.heads.saliency import SaliencyHead, SaliencyProgram

            own = loaded.heads[name]
            assert isinstance(own, SaliencyHead)
            heads[name] = SaliencyProgram.of(own, loaded.model.config)
        else:
            has = ", ".join(loaded.heads) or "none"
            raise RecipeError(
                f"{loaded.name} brings no head called {name!r}", why=f"it has {has}", fix=f"--heads {name}=FILE"
            )
    return heads


def read_head(path: Path, config: DinoV2Config) -> Head:
    """The head in a .pth or .safetensors file.

    A linear depth head is taken to reach 80 m when "kitti" is in the file's name, as the official ones, else 10 m.

    Raises:
        DataError: missing, damaged, not a head that edgekit knows, incomplete, or for another backbone.
    """
    state = _state(path)
    try:
        head = _head(state, config, _KITTI if "kitti" in path.name.lower() else _NYU)
        if head is not None:
            _try(head, config)
            return head
    except KeyError as error:
        raise DataError(f"{path}: the head has no {error.args[0]}") from None
    except DataError as error:
        raise DataError(f"{path}: {error.what}", why=error.why) from None
    except (RuntimeError, ValueError) as error:  # torch's and numpy's of shapes
        raise DataError(f"{path}: the head's tensors do not fit together", why=str(error).splitlines()[0]) from None
    raise DataError(
        f"{path} holds no head that edgekit knows", why=f"looked for {_KNOWN}; found {', '.join(state)[:200]}"
    )


def _head(state: Mapping[str, np.ndarray], config: DinoV2Config, max_depth: float) -> Head | None:
    if "gallery" in state:
        return NearestNeighbours.from_state(state, config)
    if "conv_seg.weight" in state:
        return LinearSegmenter.from_state(state, config)
    if "reassemble_blocks.projects.0.conv.weight" in state:
        return DptDepth.from_state(state, config)
    if "conv_depth.weight" in state:
        return LinearDepth.from_state(state, config, max_depth)
    if state.get("weight", np.zeros(0)).ndim == 2:
        return LinearClassifier.from_state(state, config)
    return None


def _try(head: Head, config: DinoV2Config) -> None:
    """Compute it once on the smallest grid: whatever is missing or does not fit is found here, not in an export."""
    import torch

    from edgekit.graph.torch_emitter import TorchEmitter

    small = replace(config, grid=(2, 2), registers=0)
    head.emit(TorchEmitter(small, {}), [torch.zeros(1, 1 + 4, config.width) for _ in head.layers], small.grid)


def _state(path: Path) -> dict[str, np.ndarray]:
    """Float32 tensors under the names of the head's own modules."""
    import torch

    if not path.is_file():
        raise DataError(f"there is no head {path}", fix="--heads NAME=FILE")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            tree: object = load_file(path)
        else:
            tree = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors each have errors of their own
        raise DataError(
            f"{path} cannot be read",
            why=str(error).splitlines()[0][:200],
            fix="only tensors are loaded: convert it to .safetensors",
        ) from None
    state = tree.get("state_dict", tree) if isinstance(tree, dict) else {}
    return {
        str(key).removeprefix("decode_head."): value.float().numpy()
        for key, value in state.items()
        if isinstance(value, torch.Tensor)
    }
