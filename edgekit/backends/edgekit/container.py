"""The `.edgekit` file: its tensors and its description, as docs/runtime.md has them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends.base import Described
from edgekit.backends.fused import numbers_of
from edgekit.backends.metadata import manifest_text
from edgekit.backends.source import ExportSource, folded_tensors
from edgekit.errors import DataError, ExportError
from edgekit.native.blocks import FEED_FORWARD, first_inputs
from edgekit.precision import FACTS, Precision

if TYPE_CHECKING:
    from edgekit.graph.emitter import Tensors
    from edgekit.models.config import ViTConfig
    from edgekit.plan.quant import QuantPlan

SCHEMA = "edgekit.model/1"
METADATA = "edgekit.model"  # the one key of the safetensors file's metadata
GOLDEN = "golden.pooler_output"
TIERS = {"int8": "speed", "int16": "quality", "float": "exact"}  # by the activations of a precision
_MOST_HEADER = 2**24  # bytes


def save(source: ExportSource, precision: Precision, described: Described, path: Path) -> None:
    """Write the file of a source whose plan, if it has one, is of 8-bit weights with one scale per channel."""
    from safetensors.numpy import save_file

    from edgekit.backends.edgekit.emitter import head_programs

    plan = source.plan
    config, tensors = (
        (source.model.config, folded_tensors(source)) if plan is None else (plan.config, plan.float_tensors)
    )
    arrays = {**_backbone(config, tensors), **_blocks(config, tensors, plan), GOLDEN: golden_output(source)}
    programs, head_arrays = head_programs(config, tensors, source.heads, source.head_plan)
    description = {
        "schema": SCHEMA,
        "manifest": json.loads(manifest_text(described)),
        "network": _network(config),
        "tier": TIERS[FACTS[precision].activations],
        "heads": programs,
        "golden": {"least_cosine": FACTS[precision].least_cosine},
    }
    arrays = {name: np.ascontiguousarray(array) for name, array in (arrays | head_arrays).items()}
    save_file(arrays, path, metadata={METADATA: json.dumps(description, sort_keys=True)})


def _network(config: ViTConfig) -> dict[str, Any]:
    return {
        "width": config.width,
        "depth": config.depth,
        "heads": config.heads,
        "ffn": config.ffn,
        "hidden": config.ffn_hidden,
        "registers": config.registers,
        "patch": config.patch,
        "grid": list(config.grid),
        "positions": config.positions,
        "interpolation": config.interpolation,
        "norm_eps": config.norm_eps,
        "rope_base": config.rope_base,
        "rope_periods": config.rope_periods,
    }


def _backbone(config: ViTConfig, tensors: Tensors) -> dict[str, np.ndarray]:
    """Tensors that are float32 in every file."""
    arrays = {
        "patch_embed.weight": tensors["patch_embed.proj.weight"].reshape(config.width, -1),
        "patch_embed.bias": tensors["patch_embed.proj.bias"],
        "cls_token": tensors["cls_token"].reshape(config.width),
        "norm.weight": tensors["norm.weight"],
        "norm.bias": tensors["norm.bias"],
    }
    if config.registers:
        arrays["register_tokens"] = tensors["register_tokens"].reshape(config.registers, config.width)
    if config.positions == "learned":
        arrays["pos_embed"] = tensors["pos_embed"].reshape(-1, config.width)
    if "unrotate" in tensors:
        arrays["unrotate"] = tensors["unrotate"]
    return arrays


def _blocks(config: ViTConfig, tensors: Tensors, plan: QuantPlan | None) -> dict[str, np.ndarray]:
    """Norms, attention scales and gains, and each linear layer as integers where the plan has them.

    Raises:
        ExportError: LayerScale is not folded.
    """
    arrays: dict[str, np.ndarray] = {}
    for block in (f"blocks.{i}" for i in range(config.depth)):
        if f"{block}.ls1.gamma" in tensors:
            raise ExportError(f"{block} has a LayerScale of its own", why="the kernels take it folded into the weights")
        for norm in ("norm1", "norm2"):
            arrays |= {f"{block}.{norm}.{part}": tensors[f"{block}.{norm}.{part}"] for part in ("weight", "bias")}
        arrays[f"{block}.attn.scale"] = tensors[f"{block}.attn.scale"].reshape(1)
        if (gain := f"{block}.mlp.fc2_gain") in tensors:
            arrays[gain] = tensors[gain]
        for name in (f"{block}.{part}" for part in first_inputs(config.ffn)):
            arrays |= linear_arrays(name, tensors, plan)
    return arrays


def linear_arrays(name: str, tensors: Tensors, plan: QuantPlan | None) -> dict[str, np.ndarray]:
    """A linear layer's tensors: int8 (out, in) with scale and bias, or float32 (in, out) with bias."""
    if plan is not None and name in plan.gemms:
        numbers = numbers_of(plan.gemms[name])
        return {f"{name}.{key.removeprefix('weight_')}": value for key, value in numbers.items()}
    return {f"{name}.weight": tensors[f"{name}.weight"].T, f"{name}.bias": tensors[f"{name}.bias"]}


def golden_picture(height: int, width: int, patch: int) -> np.ndarray:
    """The picture of the self-test: (height, width, 3) uint8."""
    y, x, c = np.ogrid[:height, :width, :3]
    levels: np.ndarray = (x * (3 + c) // 2 + y * (2 + c) + 97 * ((x // patch + y // patch) % 3)) % 256
    return levels.astype(np.uint8)


def golden_output(source: ExportSource) -> np.ndarray:
    """`pooler_output` (D,) of the float model for the golden picture."""
    from edgekit.graph.torch_emitter import run_with_heads
    from edgekit.images.preprocess import pixels_of

    crop = golden_picture(*source.preprocess.input_size, source.model.config.patch)
    return run_with_heads(source.model, {}, pixels_of(crop, source.preprocess)[None])["pooler_output"][0]


def description_of(path: Path) -> dict[str, Any]:
    """The description in a file's header, read without its tensors and without the safetensors package.

    Raises:
        DataError: missing, or no file of edgekit's.
    """
    fix = "edgekit build --out OUT --format edgekit"
    try:
        return _description(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read", why=error.strerror or str(error), fix=fix) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is no .edgekit file", why=str(error)[:300], fix=fix) from None


def _description(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(_MOST_HEADER, path.stat().st_size - 8):
            raise ValueError(f"its header claims {length} bytes")
        found = json.loads(json.loads(stream.read(length))["__metadata__"][METADATA])
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise ValueError(f"its schema is not {SCHEMA}, which this edgekit reads")
    return found


def expected_tensors(plan: QuantPlan) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of the backbone as a file of that plan has to hold it."""
    yield from _backbone(plan.config, plan.float_tensors).items()
    yield from _blocks(plan.config, plan.float_tensors, plan).items()


def gemms_of(description: dict[str, Any]) -> list[str]:
    """Names of the linear layers inside the blocks of a file."""
    network = description["network"]
    parts = ("attn.qkv", "attn.proj", *FEED_FORWARD[network["ffn"]])
    return [f"blocks.{i}.{part}" for i in range(network["depth"]) for part in parts]


def types_of(path: Path) -> dict[str, str]:
    """Number type of each tensor of a file, by name: "F32" or "I8"."""
    with path.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return {name: str(entry["dtype"]) for name, entry in header.items() if name != "__metadata__"}
