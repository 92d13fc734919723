"""Reads head checkpoints: which head a file holds is told by its keys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgekit.artifact import IMAGE_NAME, INPUT_NAME, OUTPUT_NAMES
from edgekit.errors import DataError, RecipeError
from edgekit.graph.heads import Head
from edgekit.heads.known import farthest, head_of, try_out, with_classes
from edgekit.heads.own import own_head, own_kind
from edgekit.models.config import ViTConfig

if TYPE_CHECKING:
    from edgekit.models.zoo import LoadedModel

_KNOWN = "weight (linear classifier), gallery (k-NN), conv_seg.weight, conv_depth.weight, or a DPT's"


def read_heads(wanted: Mapping[str, str], loaded: LoadedModel) -> dict[str, Head]:
    """The heads of a build: {output name: path, or "model" for the one in the checkpoint}.

    "model:KIND" says of a Depth Anything checkpoint what its keys do not, see `edgekit.models.depth_anything.KINDS`.

    Raises:
        RecipeError: a name is taken, or the model brings no such head.
        DataError: a file is missing, damaged, no head, or for another backbone.
    """
    heads: dict[str, Head] = {}
    taken = {INPUT_NAME, IMAGE_NAME, *OUTPUT_NAMES, *loaded.model.state_dict()}
    for name, source in wanted.items():
        if name in taken or not name.isidentifier():
            raise RecipeError(f"{name!r} cannot be the name of a head's output", fix="--heads cls=head.pth")
        kind = own_kind(source)
        heads[name] = read_head(Path(source), loaded.model.config) if kind is None else own_head(name, loaded, kind)
    return heads


def read_head(path: Path, config: ViTConfig) -> Head:
    """The head in a .pth or .safetensors file.

    A linear depth head is taken to reach 80 m when "kitti" is in the file's name, as the official ones, else 10 m.

    Raises:
        DataError: missing, damaged, not a head that edgekit knows, incomplete, or for another backbone.
    """
    state, classes = _state(path)
    try:
        head = head_of(state, config, farthest(path.name))
        if head is not None:
            try_out(head, config)
            return with_classes(head, classes)
    except KeyError as error:
        raise DataError(f"{path}: the head has no {error.args[0]}") from None
    except DataError as error:
        raise DataError(f"{path}: {error.what}", why=error.why) from None
    except (RuntimeError, ValueError) as error:  # torch's and numpy's of shapes
        raise DataError(f"{path}: the head's tensors do not fit together", why=str(error).splitlines()[0]) from None
    raise DataError(
        f"{path} holds no head that edgekit knows", why=f"looked for {_KNOWN}; found {', '.join(state)[:200]}"
    )


def _state(path: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Float32 tensors under the names of the head's own modules, and the names of classes that `fit-head` wrote."""
    import torch

    if not path.is_file():
        raise DataError(f"there is no head {path}", fix="--heads NAME=FILE")
    classes: object = ()
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                tree: object = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
                classes = json.loads((file.metadata() or {}).get("classes", "[]"))
        else:
            tree = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors each have errors of their own
        raise DataError(
            f"{path} cannot be read",
            why=str(error).splitlines()[0][:200],
            fix="only tensors are loaded: convert it to .safetensors",
        ) from None
    state = tree.get("state_dict", tree) if isinstance(tree, dict) else {}
    tensors = {
        str(key).removeprefix("decode_head."): value.float().numpy()
        for key, value in state.items()
        if isinstance(value, torch.Tensor)
    }
    return tensors, tuple(map(str, classes)) if isinstance(classes, list) else ()
