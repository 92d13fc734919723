"""A live torch module as a checkpoint: a folder with its tensors and config, which every reader of files takes."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import DataError
from edgekit.files import sha256_of

if TYPE_CHECKING:
    from torch.nn import Module


def is_module(model: object) -> bool:
    """Whether a model argument is a torch module; torch is not imported to find out."""
    names = (f"{base.__module__}.{base.__qualname__}" for base in type(model).__mro__)
    return "torch.nn.modules.module.Module" in names


def save_module(module: Module, folder: Path, *, licence: Path | None = None) -> Path:
    """Write the weights of a module and what its library says of them below `folder`; other weights stay there.

    Keys and shapes tell the architecture: transformers' `Dinov2Model`, `DINOv3ViTModel` and those for a task, timm's
    and torch.hub's modules. Of transformers the config goes along, of timm the statistics of the pixels.

    Args:
        module: on any device, of any float type.
        folder: of checkpoints; the file is <folder>/<class>/model.safetensors.
        licence: a text that has to go with every copy of the weights: DINOv3's.

    Returns:
        The checkpoint's folder.

    Raises:
        DataError: the folder holds other weights, or cannot be written.
    """
    from safetensors.torch import save_file

    place = folder / type(module).__name__
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in module.state_dict().items()}
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".module-", dir=folder) as temporary:
            made = Path(temporary) / "model.safetensors"
            save_file(tensors, made)
            kept = place / made.name
            if kept.exists() and sha256_of(kept) != sha256_of(made):
                raise DataError(
                    f"{place} holds other weights than this {type(module).__name__}",
                    why="a build folder belongs to one checkpoint",
                    fix="another out folder",
                )
            if not kept.exists():
                os.replace(made, kept)
        if described := _described(module):
            (place / "config.json").write_text(json.dumps(described, sort_keys=True), encoding="utf-8")
        if licence is not None:
            shutil.copyfile(licence, place / "LICENSE.md")
    except OSError as error:
        raise DataError(
            f"{place} cannot be written", why=error.strerror or str(error), fix="another out folder"
        ) from None
    return place


def _described(module: Module) -> dict[str, Any]:
    """The config.json that the module's library would write; {} where it has none."""
    config: Any = getattr(module, "config", None)
    if hasattr(config, "to_json_string"):  # transformers
        values: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
        return values | {"architectures": [type(module).__name__]}
    timm: Any = getattr(module, "pretrained_cfg", None)
    if isinstance(timm, dict):
        kept = {key: timm[key] for key in ("mean", "std", "license") if timm.get(key) is not None}
        return {"pretrained_cfg": json.loads(json.dumps(kept))}
    return {}
