"""Reads head checkpoints: which head a file holds is told by its keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from edgekit.artifact import IMAGE_NAME, INPUT_NAME, OUTPUT_NAMES
from edgekit.errors import DataError, RecipeError
from edgekit.graph.heads import Head
from edgekit.heads.known import farthest, head_of, try_out, with_classes
from edgekit.heads.own import own_head, own_kind
from edgekit.models.config import ViTConfig

if TYPE_CHECKING:
    from edgekit.models.zoo import LoadedModel

_KNOWN = "weight (linear classifier), gallery (k-NN), conv_seg.weight, conv_depth.weight, or a DPT's"
_WRAPPER = "state_dict."  # a checkpoint of training, with the head in one of its entries
_INTEGERS = "torch.int64"
_AGAIN = "get the file again"
_MOST_CLASSES = 10_000_000  # bytes of their names: ImageNet-21k has 0.5 MB
_CLASSES = TypeAdapter(Annotated[list[Annotated[str, Field(max_length=1000)]], Field(max_length=1_000_000)])


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
    except (
        RuntimeError,
        ValueError,
        IndexError,
        TypeError,
        ZeroDivisionError,
    ) as error:  # torch's and numpy's of shapes
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: the head's tensors do not fit together", why=why, fix=_AGAIN) from None
    raise DataError(
        f"{path} holds no head that edgekit knows", why=f"looked for {_KNOWN}; found {', '.join(state)[:200]}"
    )


def _state(path: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Float32 tensors under the names of the head's own modules, and the names of classes that `fit-head` wrote.

    Counters and labels may be integers, what is multiplied with features is made of floats.
    """
    if not path.exists():
        raise DataError(f"there is no head {path}", fix="--heads NAME=FILE")
    from edgekit.models.described import require_finite, require_floats
    from edgekit.models.tensor_files import read_tensors

    try:
        found = read_tensors(path)
    except DataError as error:
        raise DataError(f"the head {path} cannot be read", why=f"{error.what} {error.why}", fix=error.fix) from None
    whole = {key.removeprefix(_WRAPPER): value for key, value in found.tensors.items() if key.startswith(_WRAPPER)}
    state = {key.removeprefix("decode_head."): value.detach() for key, value in (whole or found.tensors).items()}
    try:
        floats = {key: value for key, value in state.items() if str(value.dtype) != _INTEGERS or value.ndim > 1}
        require_floats(floats, found.file_bytes)
        wide = {key: value.float() for key, value in state.items()}
        require_finite(wide)
        return {key: value.numpy() for key, value in wide.items()}, _classes(found.metadata.get("classes", "[]"))
    except DataError as error:
        raise DataError(f"{path}: {error.what}", why=error.why, fix=error.fix) from None


def _classes(text: str) -> tuple[str, ...]:
    """Names of classes in a header. Raises DataError unless they are a list of short texts."""
    try:
        return tuple(_CLASSES.validate_json(text[:_MOST_CLASSES]))
    except ValidationError as error:
        raise DataError("its names of classes cannot be read", why=error.errors()[0]["msg"], fix=_AGAIN) from None
