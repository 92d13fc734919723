"""Heads that a checkpoint brings along: built by default, and never dropped without a line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from edgekit.artifact import WholeImage
from edgekit.errors import DataError, RecipeError
from edgekit.graph.heads import Head
from edgekit.heads.known import try_out
from edgekit.heads.layouts import FINDERS, OwnHead, kind_of, saliency_program
from edgekit.heads.saliency import SaliencyHead
from edgekit.models.config import family_of_config
from edgekit.models.depth_anything import is_depth_anything, title_of, whole_image_of

if TYPE_CHECKING:
    from edgekit.models.zoo import LoadedModel

OWN = "model"  # in place of a path: the head that the model's checkpoint brings along
_SALIENCY = "saliency"
_PROMISED = {
    "Dinov2ForImageClassification": "logits",
    "Dinov2WithRegistersForImageClassification": "logits",
    "DepthAnythingForDepthEstimation": "predicted_depth",
}


def own_kind(source: str) -> str | None:
    """The KIND of a source "model:KIND": "" of "model", None of a path."""
    name, _, kind = source.partition(":")
    return kind if name == OWN else None


def decoders_of(loaded: LoadedModel) -> dict[str, SaliencyHead]:
    """The dense decoders in a checkpoint as torch modules, by the name of their output.

    Raises:
        DataError: a decoder is incomplete.
    """
    decoder = SaliencyHead.from_state(loaded.rest, loaded.model.config.patch)
    return {} if decoder is None else {_SALIENCY: decoder}


def own_heads(loaded: LoadedModel) -> dict[str, OwnHead]:
    """The heads in a checkpoint that edgekit knows, by the name of their output: Hugging Face's where there is one."""
    config = loaded.model.config
    found: dict[str, OwnHead] = {}
    if decoder := decoders_of(loaded).get(_SALIENCY):
        anchor = next(key for key in loaded.rest if key.endswith("upconv1.weight")) if loaded.rest else ""
        prefix = anchor.removesuffix("upconv1.weight")
        keys = frozenset(key for key in loaded.rest if key.startswith(prefix))
        found[_SALIENCY] = OwnHead(
            "the checkpoint's saliency decoder", keys, lambda kind: saliency_program(decoder, config)
        )
    for find in FINDERS:
        named = find(loaded, config)
        if named is not None and named[0] not in found:
            found[named[0]] = named[1]
    return found


def own_head(name: str, loaded: LoadedModel, kind: str = "") -> Head:
    """The head of that name in a checkpoint, as a program.

    Args:
        name: of its output.
        loaded: the checkpoint.
        kind: of Depth Anything, see `edgekit.models.depth_anything.KINDS`.

    Raises:
        RecipeError: it brings none of that name, or none of which a kind can be named.
        DataError: the head is incomplete, or its shapes do not fit.
    """
    heads = own_heads(loaded)
    if name not in heads:
        has = ", ".join(heads) or "none that edgekit knows"
        raise RecipeError(
            f"{loaded.name} brings no head called {name!r}", why=f"it has {has}", fix=f"--heads {name}=FILE"
        )
    found = heads[name]
    if kind and not found.kinds:
        raise RecipeError(f"{found.title} has no kinds, {kind!r} means nothing of it", fix=f"--heads {name}={OWN}")
    without = "--heads none builds the backbone alone"
    try:
        head = found.make(kind)
        try_out(head, loaded.model.config)
    except KeyError as error:
        raise DataError(f"{loaded.name}: {found.title} has no {error.args[0]}", fix=without) from None
    except DataError as error:
        raise DataError(f"{loaded.name}: {error.what}", why=error.why, fix=error.fix or without) from None
    except (RuntimeError, ValueError, IndexError) as error:  # torch's and numpy's of shapes
        raise DataError(
            f"{loaded.name}: the tensors of {found.title} do not fit together",
            why=str(error).splitlines()[0],
            fix=without,
        ) from None
    return head


def wanted_heads(asked: Mapping[str, str], own: bool, loaded: LoadedModel) -> dict[str, str]:
    """The heads of a build as {output name: path or "model"}: those asked for, else what the checkpoint was made for.

    The demo's saliency decoder is built only when it is asked for: the demo is the backbone's.

    Raises:
        DataError: config.json names a model with a head, and the file has none.
    """
    if asked or not own:
        return dict(asked)
    found = own_heads(loaded)
    for architecture in loaded.described.get("architectures") or ():
        promised = _PROMISED.get(str(architecture))
        if promised and promised not in found and loaded.described.get("id2label") != {}:
            raise DataError(
                f"{loaded.name}: config.json names a {architecture}, the file has no whole head of one",
                why="the head's tensors are missing, or have other names",
                fix="--heads none builds the backbone alone",
            )
    return {name: OWN for name in found if name != _SALIENCY}


def whole_image(wanted: Mapping[str, str], loaded: LoadedModel) -> WholeImage | None:
    """The published size of photographs, where a wanted head is Depth Anything's, which sees them whole; else None.

    Raises:
        DataError: the checkpoint's preprocessor_config.json resizes in a way that edgekit does not.
    """
    found = own_heads(loaded)
    mine = (name for name, source in wanted.items() if own_kind(source) is not None and name in found)
    return whole_image_of(loaded.processor) if any(found[name].kinds for name in mine) else None


def remarks(wanted: Mapping[str, str], loaded: LoadedModel) -> list[str]:
    """A line for each head that is taken from the checkpoint, for each left out, and for tensors of no known head.

    Raises:
        DataError: what a wanted head is cannot be told.
    """
    found, lines = own_heads(loaded), []
    for name, head in found.items():
        kind = own_kind(wanted.get(name, ""))
        if kind is not None:
            lines.append(f"head {name}: {head.title}{_assumption(name, loaded, kind) if head.kinds else ''}")
        else:
            lines.append(f"left out: {head.title} ({_count(head.keys, loaded)}); --heads {name}={OWN} builds it in")
    if _norms_pooled(loaded):
        lines.append("final norm: fc_norm, which this checkpoint has in its place, behind the mean of the patch tokens")
    if rest := unknown(loaded):
        parts = ", ".join(f"{group}.* ({size})" for group, size in rest.items())
        lines.append(
            f"left out: {parts}: of no head that edgekit knows; one of your own joins with --heads NAME=FILE, "
            "its keys as docs/heads.md has them"
        )
    config = loaded.model.config
    if config.positions == "learned" and config.interpolation == "antialias" and not config.registers:
        lines.append("positions: resized with antialias, as timm does; --interpolation offset is Meta's way")
    if (whole := whole_image(wanted, loaded)) is not None:
        sizes = ", ".join(
            "x".join(map(str, whole.size_of(*size))) for size in ((1536, 1536), (1536, 2048), (2048, 1536))
        )
        lines.append(f"photographs are resized whole, not cropped; square, 4:3 and 3:4 ones are published at {sizes}")
    if config.positions == "rope":
        lines.append(f"licence {loaded.licence}: its text goes with every copy ({loaded.origin})")
    if loaded.licence.startswith("CC-BY-NC"):
        lines.append(f"licence {loaded.licence}: not for commercial use ({loaded.origin})")
    elif is_depth_anything(loaded.rest):
        lines.append(f"licence {loaded.licence} ({loaded.origin})")
    return lines


def unknown(loaded: LoadedModel) -> dict[str, str]:
    """Tensors outside the backbone that belong to no known head: {module: "3 tensors, 1,234 parameters"}."""
    claimed = {key for head in own_heads(loaded).values() for key in head.keys}
    if _norms_pooled(loaded):
        claimed |= {f"{loaded.prefix}fc_norm.{part}" for part in ("weight", "bias")}
    groups: dict[str, list[str]] = {}
    for key, tensor in loaded.rest.items():
        if key not in claimed and tensor.ndim and "::" not in key:  # counters, and constants that exporters number
            groups.setdefault(_module(key, loaded.prefix), []).append(key)
    return {group: _count(keys, loaded) for group, keys in sorted(groups.items())}


def family_of(loaded: LoadedModel) -> str:
    """The family of a checkpoint in words."""
    config = loaded.model.config
    if is_depth_anything(loaded.rest):
        try:
            return title_of(kind_of(loaded, config).version, config.width)
        except DataError:  # which is raised where the head is wanted
            return "Depth Anything"
    return family_of_config(config)


def described_by(loaded: LoadedModel, name: str) -> str:
    """A head of the checkpoint in words, or why it cannot be built."""
    try:
        head = own_head(name, loaded)
    except (DataError, RecipeError) as error:
        return f"{own_heads(loaded)[name].title}, cannot be built: {error.what}"
    classes = f", {head.shape((1, 1))[0]} classes" if head.task == "classification" else ""
    shown = f": {', '.join(head.classes[:5])}{', ...' if len(head.classes) > 5 else ''}" if head.classes else ""
    return own_heads(loaded)[name].title + classes + shown


def _assumption(name: str, loaded: LoadedModel, said: str) -> str:
    """The kind that was asked for, or the assumed one and how to ask for another."""
    kind = kind_of(loaded, loaded.model.config, said)
    if said:
        return f"; taken as {said}: {kind.words}"
    if not kind.assumed:
        return ""
    return (
        f"; keys do not tell the version, this is assumed: --heads {name}={OWN}:v1 reads the last four blocks, "
        f"{OWN}:hypersim and {OWN}:vkitti are metric, to 20 and 80 m"
    )


def _norms_pooled(loaded: LoadedModel) -> bool:
    """Whether timm's `fc_norm` serves as the final norm, which the file does without."""
    found = loaded.rest.get(f"{loaded.prefix}fc_norm.weight")
    return found is not None and found.float().equal(loaded.model.norm.weight)


def _module(key: str, prefix: str) -> str:
    """The outermost module of a tensor that does not hold the backbone."""
    inside, parts = prefix.split("."), key.split(".")
    same = 0
    while same < len(parts) - 2 and same < len(inside) and parts[same] == inside[same]:
        same += 1
    return ".".join(parts[: same + 1])


def _count(keys: Iterable[str], loaded: LoadedModel) -> str:
    sizes = [loaded.rest[key].numel() for key in keys]
    return f"{len(sizes)} tensor{'s' * (len(sizes) != 1)}, {sum(sizes):,} parameters"
