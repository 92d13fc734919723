"""The zoo: a name or path in, a loaded model with its source, licence and hash out."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit.errors import BackendMissing, DataError, RecipeError
from edgekit.files import sha256_of
from edgekit.models import first_use
from edgekit.models.config import Interpolation, Periods, ViTConfig
from edgekit.models.depth_anything import depth_kind, is_depth_anything, licence_of, title_of
from edgekit.models.entries import ENTRIES, ZooEntry
from edgekit.models.licences import require_text
from edgekit.models.sources import GatedSource, HubSource

if TYPE_CHECKING:
    from torch import Tensor

    from edgekit.models.checkpoint import Checkpoint
    from edgekit.models.vit import VisionTransformer

_UNKNOWN = "unknown: the file does not say"


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to bake, and where it comes from.

    `attempts` says of each source tried what became of it. `rest` holds the tensors that are not the backbone's under
    the file's own keys, of which those of the backbone begin with `prefix`; `described` is the config.json beside it.
    `edgekit.heads.own` finds the heads in them.
    """

    model: VisionTransformer
    name: str
    source: str
    licence: str
    origin: str
    sha256: str
    attempts: tuple[str, ...] = ()
    layout: str = ""  # of the keys, see `Checkpoint`
    rest: dict[str, Tensor] = field(default_factory=dict)
    prefix: str = ""
    described: dict[str, Any] = field(default_factory=dict)
    licence_text: str = ""  # where the licence wants to go with every copy
    processor: dict[str, Any] = field(default_factory=dict)  # preprocessor_config.json beside it


def entries() -> tuple[ZooEntry, ...]:
    """Every named checkpoint, the demo first. Needs neither torch nor network."""
    return ENTRIES


def _known() -> dict[str, ZooEntry]:
    """Every entry by its name and by each alias."""
    return {key: entry for entry in ENTRIES for key in (entry.name, *entry.aliases)}


def find(name: str) -> ZooEntry:
    """The entry of a name or alias. Raises RecipeError with the nearest names when there is none."""
    known = _known()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    raise RecipeError(
        f"unknown model {name!r}: neither a name of the zoo nor an existing file or folder",
        why="did you mean " + " or ".join(near) + "?" if near else "",
        fix="edgekit models",
    )


def path_of(model: str | Path) -> Path | None:
    """The absolute path of the checkpoint that a model argument names, None for a name of the zoo.

    The one rule of every command: a name of the zoo (or an alias) wins over a file or folder that is spelled alike,
    which is written as a path: ./demo, /data/demo, ~/demo. A `Path` object is a path. Links are not followed: the
    weights of a hub snapshot are links to files without a suffix.

    Raises:
        RecipeError: neither, with the nearest names.
    """
    if isinstance(model, str) and model in _known():
        return None
    try:
        path = Path(model).expanduser().absolute()
        if model != "" and path.exists():  # Path("") would be the working folder
            return path
    except (OSError, RuntimeError, ValueError):  # too long, ~nosuchuser, a NUL
        pass
    find(str(model))  # raises, but for a Path object that is spelled like a name
    raise RecipeError(f"there is no checkpoint {model}", fix=f"the text {str(model)!r} is the model of that name")


def place_of(model: str | Path) -> str:
    """A model argument that means the same in every folder and process: a name of the zoo, or an absolute path."""
    return str(path_of(model) or model)


def refuse_gated(entry: ZooEntry) -> None:
    """Raises DataError where only the user can get a checkpoint, and says how."""
    if isinstance(source := entry.sources[0], GatedSource):
        raise DataError(
            f"{entry.name} is not fetched by edgekit",
            why=f"its licence ({entry.licence}) has to be accepted by whoever uses it",
            fix=f"accept it at {source.describe()}, download the folder with its LICENSE.md, and pass --model FOLDER",
        )


def load(
    name_or_path: str | Path,
    *,
    notify: Callable[[str], None] | None = None,
    interpolation: Interpolation | Literal["auto"] = "auto",
    rope_periods: Periods | Literal["auto"] = "auto",
) -> LoadedModel:
    """Load a model by zoo name, alias, or path of a checkpoint (.pth, .safetensors, .onnx, folder).

    Args:
        name_or_path: as `path_of` reads it.
        notify: told in one line what is about to be fetched.
        interpolation: how positions are resized to another image size; "auto" as the checkpoint's own library does.
        rope_periods: how exact the periods of rotary positions are; "auto" as the file has them, float32 where it has
            none.

    Raises:
        RecipeError: unknown model, with the nearest names, or periods for learned positions.
        DataError: no source delivered (each is named with its reason), the file is not what it should be, or an
            unpinned one has changed since its first use.
        BackendMissing: torch is not installed, or onnx for a checkpoint inside an ONNX file.
    """
    if find_spec("torch") is None:
        raise BackendMissing(f"loading {name_or_path} needs torch", fix="pip install 'edgekit[torch]'")
    loaded = _load(name_or_path, notify)
    if interpolation != "auto":
        loaded.model.config = replace(loaded.model.config, interpolation=interpolation)
    if rope_periods != "auto":
        if loaded.model.rotation is None:
            raise RecipeError(
                f"rope_periods = {rope_periods!r}: {loaded.name} has learned positions",
                why="only rotary positions have periods",
                fix="leave --rope-periods out",
            )
        loaded.model.take_periods(rope_periods)
    return loaded


def _load(name_or_path: str | Path, notify: Callable[[str], None] | None) -> LoadedModel:
    """A model as its checkpoint has it."""
    path = path_of(name_or_path)
    if path is not None:
        return _loaded(path, name=path.name, source=str(path), licence=_UNKNOWN, origin="local checkpoint")
    entry = find(str(name_or_path))
    refuse_gated(entry)
    attempts: list[str] = []
    for place, source in enumerate(entry.sources):
        if place and not source.pinned:  # blocking one host must not be enough to choose the weights
            other = f"--model {source.repo} asks for it" if isinstance(source, HubSource) else "pass --model PATH"
            attempts.append(f"{source.describe()}: not taken instead, no digest pins it; {other}")
            continue
        if notify:
            notify(f"{entry.name}: {source.describe()}")
        try:
            path = source.fetch()
        except DataError as error:
            attempts.append(f"{source.describe()}: {error}")
            continue
        attempts.append(f"{source.describe()}: ok")
        doubt = "" if source.pinned else f"; {first_use.require_unchanged(source.describe(), path)}"
        if doubt and notify:
            notify(f"{entry.name}{doubt}")
        return _loaded(
            path,
            name=entry.name,
            source=source.describe(),
            licence=entry.licence,
            origin=entry.origin + doubt,
            config=entry.config,
            attempts=tuple(attempts),
        )
    raise DataError(
        f"no source of {entry.name} could be reached",
        why="; ".join(attempts),
        fix="download the checkpoint elsewhere and pass --model PATH",
    )


def _loaded(
    path: Path,
    *,
    name: str,
    source: str,
    licence: str,
    origin: str,
    config: ViTConfig | None = None,
    attempts: tuple[str, ...] = (),
) -> LoadedModel:
    from edgekit.models.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path, config=config)
    if licence == _UNKNOWN:  # what the file or folder states is never overruled
        known_licence, known_origin = _of_family(checkpoint, name)
        licence, origin = known_licence or licence, known_origin or origin
    licence, origin = checkpoint.licence or licence, checkpoint.origin or origin
    if checkpoint.config.positions == "rope":
        require_text(path, licence, checkpoint.licence_text)
    return LoadedModel(
        checkpoint.model(),
        name,
        source,
        licence,
        origin,
        sha256_of(path),
        attempts,
        checkpoint.layout,
        checkpoint.rest,
        checkpoint.prefix,
        checkpoint.described,
        checkpoint.licence_text,
        checkpoint.processor,
    )


def _of_family(checkpoint: Checkpoint, name: str) -> tuple[str, str]:
    """Licence and origin that are published for a family of checkpoints; "" where the file is of none."""
    if not is_depth_anything(checkpoint.rest):
        return "", ""
    config = checkpoint.config
    try:
        version = depth_kind(config.depth, described=checkpoint.described, name=name).version
    except DataError:  # of the head, which is refused where it is wanted
        version = "v2"
    title = title_of(version, config.width)
    return licence_of(version, config.width), f"local checkpoint: {title}, by its keys and width"
