"""Checkpoints: a file with a backbone of any known family becomes a config and official tensors, checked by shape."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgekit.errors import DataError, ExportError
from edgekit.files import atomic_path
from edgekit.models.architecture import infer_config
from edgekit.models.checkpoint_files import CONFIG_KEY, RawCheckpoint, read_raw
from edgekit.models.config import ViTConfig
from edgekit.models.described import require_dense, require_floats, require_same
from edgekit.models.keys import OfficialState, to_official
from edgekit.models.licences import licence_of_text
from edgekit.models.strangers import stranger
from edgekit.models.vit import VisionTransformer

_ABOUT = "about"  # beside the config's fields
_TIMM = re.compile(r"^vit_[a-z0-9]+_patch14(?:_reg4)?_dinov2")  # names of its models


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a file: `tensors` fit `VisionTransformer(config)` exactly, `rest` keeps its own keys."""

    config: ViTConfig
    tensors: dict[str, Tensor]
    rest: dict[str, Tensor]
    layout: str  # "official", "huggingface", each with " (onnx)" when it came from a graph
    licence: str = ""  # that the file or folder states
    origin: str = ""  # where edgekit wrote the file and knew it
    prefix: str = ""  # of the backbone's keys in the file
    described: dict[str, Any] = field(default_factory=dict)  # config.json beside the file
    licence_text: str = ""  # where it has to go with every copy: of the DINOv3 family
    processor: dict[str, Any] = field(default_factory=dict)  # preprocessor_config.json beside the file

    def model(self) -> VisionTransformer:
        """The un-baked model in eval mode."""
        model = VisionTransformer(self.config)
        model.load_state_dict(self.tensors, strict=True)
        return model.eval()


def load_checkpoint(path: Path, *, config: ViTConfig | None = None) -> Checkpoint:
    """Read a .safetensors, .pth/.pt/.ckpt/.bin, .onnx (FP32) file or a folder with one, official or Hugging Face keys.

    Args:
        path: the file or directory.
        config: the architecture it must have; inferred from shapes (and config.json) when None.

    Raises:
        DataError: unreadable, truncated, no DINOv2 inside, or other shapes than `config` says.
    """
    raw = read_raw(path)
    try:
        require_dense(raw.state, raw.file_bytes or sys.maxsize)
        official = to_official(raw.state)
        given = official.tensors if "norm.weight" in official.tensors else _with_pooled_norm(official.tensors)
        hints = _named(path, raw, official) | raw.hints
        found = raw.config or infer_config(replace(official, tensors=given), hints)
        wanted = config or found
        tensors, unused = _fit(given, wanted, raw.file_bytes)
        require_same(wanted, raw.said)
        if not raw.suffix:  # a graph holds constants beside its parameters
            _refuse_other_blocks(unused)
    except DataError as error:
        raise DataError(f"{path}: {error.what}", why=error.why, fix=error.fix) from None
    about = raw.about if wanted.positions == "learned" else _licensed(path, raw.about)
    rest = official.rest | {f"{official.prefix}{key}": value for key, value in unused.items()}
    return Checkpoint(
        wanted,
        tensors,
        rest,
        official.layout + raw.suffix,
        prefix=official.prefix,
        described=raw.described,
        processor=raw.processor,
        **about,
    )


def save_checkpoint(
    model: VisionTransformer, path: Path, *, licence: str = "", origin: str = "", licence_text: str = ""
) -> None:
    """Write official keys as safetensors with the config in the header, so that nothing has to be inferred again.

    Args:
        model: not rewritten.
        path: replaced atomically.
        licence: of the weights, for model cards made of the file; "" where it is not known.
        origin: where they come from, in a line.
        licence_text: where the licence wants to go with every copy.

    Raises:
        ExportError: surgery has changed the model's structure, which the official keys cannot say.
    """
    from safetensors.torch import save_file

    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    scale = model.config.head_dim**-0.5
    if tensors.keys() != _shapes(model.config).keys() or any(block.attn.scale != scale for block in model.blocks):
        raise ExportError("a rewritten model is no checkpoint", fix="save its QuantPlan, or the model before surgery")
    described: dict[str, Any] = asdict(model.config)
    if licence or origin:
        described[_ABOUT] = {"licence": licence, "origin": origin}
        described[_ABOUT] |= {"licence_text": licence_text} if licence_text else {}
    # a single key: safetensors writes several in an order that changes from run to run
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={CONFIG_KEY: json.dumps(described, sort_keys=True)})


def _licensed(path: Path, about: dict[str, str]) -> dict[str, str]:
    """Licence that a file names, completed by the text that lies beside it."""
    if about.get("licence_text"):
        return about
    name, text = licence_of_text(path if path.is_dir() else path.parent)
    return {**about, "licence": about.get("licence") or name, "licence_text": text}


def _named(path: Path, raw: RawCheckpoint, official: OfficialState) -> dict[str, Any]:
    """Fields of the config that the name of a file tells, and the library that runs it where keys do not.

    timm drops the mask token of DINOv2's official files and keeps all their other names.
    """
    hints: dict[str, Any] = {"normalization": "satellite"} if "sat493m" in path.name.lower() else {}
    plain = official.layout == "official" and not official.prefix and not raw.suffix
    if plain and ("pretrained_cfg" in raw.described or "mask_token" not in official.tensors or _TIMM.search(path.name)):
        hints["interpolation"] = "antialias"
    return hints


def _with_pooled_norm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with timm's `fc_norm` as the final norm, which it stands for in models that pool before they norm."""
    pooled = {f"norm.{part}": tensors[f"fc_norm.{part}"] for part in ("weight", "bias") if f"fc_norm.{part}" in tensors}
    return {**tensors, **pooled}


def _refuse_other_blocks(unused: Mapping[str, Tensor]) -> None:
    """Blocks that hold more than DINOv2's compute something else: adapters, norms of queries and keys."""
    if foreign := sorted(key for key in unused if key.startswith("blocks.")):
        raise DataError(
            f"the blocks hold {len(foreign)} tensors that DINOv2's have not ({', '.join(foreign[:3])} ...)",
            why=stranger(foreign) or "it is another architecture, or adapters that are not merged into the weights",
            fix="edgekit models",
        )


def _shapes(config: ViTConfig) -> dict[str, tuple[int, ...]]:
    """Official keys and shapes of an architecture."""
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in VisionTransformer(config).state_dict().items()}


def _fit(
    tensors: dict[str, Tensor], config: ViTConfig, file_bytes: int | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Exactly the tensors of `VisionTransformer(config)`, and those left over; DataError names what does not fit."""
    wanted, given = _shapes(config), tensors.keys()
    tensors = dict(tensors)
    if not any(".ls1." in key for key in tensors):  # folded before it was saved
        tensors |= {key: torch.ones(shape) for key, shape in wanted.items() if key.endswith(".gamma")}
    if "mask_token" in tensors:
        if tensors["mask_token"].numel() == config.width:
            tensors["mask_token"] = tensors["mask_token"].reshape(1, -1)
    else:  # only pre-training uses it, exports leave it out
        tensors["mask_token"] = torch.zeros(wanted["mask_token"])
    missing = sorted(wanted.keys() - tensors.keys())
    if missing:
        raise DataError(
            f"{len(missing)} tensors of {config.arch} are missing ({', '.join(missing[:3])} ...)",
            why="it is another model, or not a float export",
        )
    for key, shape in wanted.items():
        if tuple(tensors[key].shape) != shape:
            raise DataError(
                f"{key} has shape {tuple(tensors[key].shape)}, {config.arch} needs {shape}",
                why="it is a checkpoint of another model",
                fix="edgekit models",
            )
    made = 12 * config.width * config.depth if config.positions == "rope" else 0  # biases that most layouts leave out
    require_floats({key: tensors[key] for key in wanted if key in given}, file_bytes and file_bytes + made)
    for key in wanted:
        tensors[key] = tensors[key].float()
        if not torch.isfinite(tensors[key]).all():
            raise DataError(
                f"{key} holds NaN or infinite values", why="the checkpoint is damaged", fix="download it again"
            )
    return {key: tensors[key] for key in wanted}, {key: tensors[key] for key in tensors if key not in wanted}
