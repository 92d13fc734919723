"""The typed recipe: everything that decides what a build produces, readable from TOML, with a digest that names it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from edgekit.artifact import FORMATS, Format, Frozen
from edgekit.errors import RecipeError
from edgekit.precision import DEFAULT_PRECISIONS, Precision
from edgekit.settings import Switch, read_settings, validated

Engine = Literal["edgekit", "nncf"]
Input = Literal["pixel_values", "image"]
WEIGHT_BITS = (4, 7, 7.5, 8)
GROUP_SIZES = (16, 32, 64, 128, 256)  # of 4-bit weights: what the formats' block-wise weights know
MOST_SAMPLES = 1_000_000
DYNAMIC = "dynamic"  # the word for files that take images of any size
USUAL_RANGE = (112, 1022)  # pixels a side, where the word stands alone
_NATIVE = 224  # pixels a side, of a size that nobody has chosen
MOST_PIXELS = 4480  # of a side: 320 patches, whose square is 100,000 tokens
_MOST_DIGITS = 10  # of a number of pixels
_RECIPES = "recipes"  # folder of the recipes that come with edgekit


class CalibrationRecipe(Frozen):
    """The images that the quantizer may look at; `source` is a folder, or "demo" for photographs of pip packages."""

    source: str = "demo"
    samples: int = Field(default=64, ge=1, le=MOST_SAMPLES)


class QuantizeRecipe(Frozen):
    """The steps of the quantization engine, in the order they run. Each can be switched off for an ablation."""

    level: Literal["linears", "all"] = "linears"  # "all": attention matmuls are integer too
    weight_bits: int | float = 8  # or 4, 7, or 7.5: 89 steps on either side, nearly as fast as 63 without VNNI
    patch_embed: Literal["float", "int8"] = "float"  # 1 % of the work; its input is an image of 256 levels already
    group_size: int | None = None  # input channels that share a weight scale, a power of two; None = whole row
    zero_points: Switch = True  # 4-bit weights: each group has its own, where the format can hold it (TFLite cannot)
    overflow: Literal["auto", "none", "u8u8", "reduce-range"] = "auto"  # cure for CPUs whose u8*s8 saturates
    smooth: Literal["off", "search"] = "search"  # SmoothQuant / Outlier Suppression+ at LayerNorm outputs
    fc2_scale: Literal["off", "search"] = "search"  # explicit per-channel scale behind GELU
    centre_keys: Switch = True  # key mean removal ("smooth-K")
    centre_values: Switch = True
    balance_values: Switch = True  # cross-layer equalization of values and projection
    rotate: Literal["off", "on", "auto"] = "off"  # mean-preserving rotation instead of smoothing
    synthetic: Switch = True  # synthetic calibration images widen ranges to colours no photo shows
    activation_range: Literal["minmax", "percentile", "mse", "block"] = "block"
    token_scale: Switch = True  # inputs of proj and fc2: each token is divided by its abs-max first
    token_groups: Literal["off", "on", "auto"] = "auto"  # other inputs: separate scales for CLS + registers
    rounding: Literal["rtn", "mse", "gptq"] = "gptq"
    ridge: Switch = False  # ERQ: weights absorb the error of what came before; no sure gain, see GemmFit
    bias_correction: Switch = True
    recover: Switch = False  # block reconstruction from the float model; takes far longer
    promote: int | None = Field(
        default=None, ge=0, le=3
    )  # mixed precision: GEMMs with more bits; None = 3 of 4-bit ones
    max_drop: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)  # 1 - CLS cosine that promotions try

    @field_validator("group_size")
    @classmethod
    def _groups_are_known(cls, size: int | None) -> int | None:
        if size is not None and size not in GROUP_SIZES:
            raise ValueError(f"group_size {size} is none of {', '.join(map(str, GROUP_SIZES))}")
        return size

    @field_validator("weight_bits")
    @classmethod
    def _bits_are_known(cls, bits: float) -> float:
        if bits not in WEIGHT_BITS:
            raise ValueError(f"weight_bits {bits} is none of {', '.join(map(str, WEIGHT_BITS))}")
        return bits

    @property
    def bits(self) -> float:
        """Bits that weights really get: 7 at most where the range is reduced against saturation."""
        return min(self.weight_bits, 7) if self.overflow == "reduce-range" else self.weight_bits


class NncfRecipe(Frozen):
    """NNCF's settings that a comparison may choose; see `edgekit.backends.openvino.nncf.NncfOptions`."""

    preset: Literal["mixed", "performance"] = "mixed"
    smooth_quant_alpha: float | None = Field(default=None, ge=-1, le=1)


class CoreMlRecipe(Frozen):
    """The form of Core ML packages."""

    target: Literal["iOS17", "iOS18"] = "iOS18"  # the oldest system; iOS 17 has attention in parts, and no 4 bits
    batch: int = Field(default=1, ge=1)  # the most images of one call; above 1 the shape is flexible


class Recipe(Frozen):
    """The settings of one build: `Recipe()` is the demo, recipes/<name>.toml holds others, flags override fields."""

    model: str = "demo"
    image_size: tuple[tuple[int, int], ...] = ((224, 224),)  # (height, width), the first is the main one
    any_size: tuple[int, int] | None = None  # sides of the images of files that take any size; "dynamic" in image_size
    formats: tuple[Format, ...] = (next(iter(FORMATS)),)
    precisions: tuple[Precision, ...] = DEFAULT_PRECISIONS
    fused: Switch = True  # files with whole blocks as one op as well
    dynamic_ranges: Switch = True  # files whose inputs have ranges taken at run time as well: per_token, dynamic
    runtime_defaults: Switch = True  # rows as well for files that a runtime computes otherwise of its own accord here
    fused_attention: Switch = False  # TFLite files with attention as one composite as well
    engines: tuple[Engine, ...] = ("edgekit",)  # who quantizes; "nncf" is an OpenVINO w8a8 to compare ours with
    normalize: Literal["host", "graph"] = "host"
    interpolation: Literal["auto", "offset", "antialias", "size"] = "auto"  # of learned positions, see `ViTConfig`
    rope_periods: Literal["auto", "float32", "bfloat16"] = "auto"  # of rotary positions, see `ViTConfig`
    inputs: tuple[Input, ...] = ("pixel_values",)  # "image": OpenVINO and Core ML files as well that take uint8 images
    calibration: CalibrationRecipe = CalibrationRecipe()
    evaluation: str = "demo"  # folder, or "demo"
    evaluation_samples: int = Field(default=32, ge=1, le=MOST_SAMPLES)
    heads: dict[str, str] = Field(default={})  # output name -> checkpoint, or "model": the model's own
    own_heads: Switch = True  # without `heads`: those that the checkpoint was made for
    head_precision: Literal["int8", "float"] = "int8"  # of the heads in files of integer precisions
    quantize: QuantizeRecipe = QuantizeRecipe()
    nncf: NncfRecipe = NncfRecipe()
    coreml: CoreMlRecipe = CoreMlRecipe()
    seed: int = Field(default=0, ge=0, lt=2**32)

    @field_validator("image_size")
    @classmethod
    def _sizes_are_positive(cls, sizes: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        for height, width in sizes:
            for side in (height, width):
                if side > MOST_PIXELS:
                    raise ValueError(f"image size {str(side)[:20]} is more than {MOST_PIXELS}")
                if side <= 0:
                    raise ValueError(f"image size {side} is not a positive number of pixels")
        return sizes

    @field_validator("any_size")
    @classmethod
    def _range_is_one(cls, sides: tuple[int, int] | None) -> tuple[int, int] | None:
        if sides is not None and not 0 < sides[0] <= sides[1] <= MOST_PIXELS:
            raise ValueError(
                f"sides from {str(sides[0])[:20]} to {str(sides[1])[:20]} are no range up to {MOST_PIXELS}"
            )
        return sides

    @model_validator(mode="before")
    @classmethod
    def _words_are_ranges(cls, values: Any) -> Any:
        """Sizes with the range taken out that "dynamic" or "dynamic:224-1022" among them stands for."""
        sizes = values.get("image_size") if isinstance(values, dict) else None
        sizes = [sizes] if isinstance(sizes, str) else sizes
        if not isinstance(sizes, list | tuple) or not any(isinstance(size, str) for size in sizes):
            return values
        ranges = [range_of(size) for size in sizes if isinstance(size, str)]
        if len(ranges) > 1:
            raise ValueError("one file takes images of any size: name one range")
        return values | {"image_size": [size for size in sizes if not isinstance(size, str)], "any_size": ranges[0]}

    @model_validator(mode="after")
    def _some_size(self) -> Self:
        if not self.image_size and self.any_size is None:
            raise ValueError("at least one image size is needed")
        return self

    @property
    def main_size(self) -> tuple[int, int]:
        """Size (height, width) at which artifacts are compared and timed: the first, or 224 within the range."""
        if self.image_size or self.any_size is None:
            return self.image_size[0]
        side = min(max(_NATIVE, self.any_size[0]), self.any_size[1])
        return side, side

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Every size at which something is made, the main one first."""
        return self.image_size or (self.main_size,)

    @property
    def positions(self) -> dict[str, Any]:
        """The choices of how positions are made, as `edgekit.models.zoo.load` takes them."""
        return {"interpolation": self.interpolation, "rope_periods": self.rope_periods}

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of the recipe's canonical JSON."""
        newer = (
            "dynamic_ranges",
            "runtime_defaults",
            "any_size",
            "heads",
            "own_heads",
            "head_precision",
            "fused_attention",
            "coreml",
            "interpolation",
            "rope_periods",
        )
        unused = {name for name in newer if getattr(self, name) == type(self).model_fields[name].default}
        values = self.model_dump(mode="json", exclude=unused)  # older digests stay theirs
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @classmethod
    def make(cls, values: dict[str, Any]) -> Recipe:
        """Validate a plain dictionary; raises RecipeError naming each bad key, its value and the reason."""
        return validated(cls, values, "the recipe is not valid", command="build")

    @classmethod
    def of(cls, model: Recipe | str | Path, **settings: Any) -> Recipe:
        """The recipe of a model with some fields in plain words; a recipe is taken as it is, or with these fields.

        Args:
            model: a name of the zoo, the path of a checkpoint (a `Path` is never a name), or a recipe.
            **settings: fields of the recipe. Besides their own types: `image_size=448`, `formats="onnx,openvino"` (the
                same for precisions, engines and inputs), and `calibration="photos/"`, whose images judge, too, unless
                `evaluation` names others.

        Raises:
            RecipeError: an unknown field or an impossible value.
        """
        if isinstance(model, Recipe):
            return cls.make(model.model_dump() | _plain(settings)) if settings else model
        if not isinstance(model, str | Path):
            raise RecipeError(
                f"{model!r} is no model",
                why="wanted is a name of `edgekit models`, the path of a checkpoint, or a Recipe",
                fix='edgekit.build("demo", "OUT")',
            )
        return cls.make({"model": _text(model), **_plain(settings)})

    @classmethod
    def from_toml(cls, path: Path) -> Recipe:
        """Read a recipe file, or the recipe of that name which comes with edgekit.

        Raises:
            RecipeError: it is missing, no TOML, or has a wrong or unknown key.
        """
        shipped = {} if path.exists() else shipped_recipes()
        return cls.make(read_settings(shipped.get(str(path), path)))


def shipped_recipes() -> dict[str, Path]:
    """The recipe files that come with edgekit, by name: beside the modules, or in the checkout's `recipes/`."""
    here = Path(__file__).parent
    folder = next((each for each in (here / _RECIPES, here.parent / _RECIPES) if each.is_dir()), here)
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def range_of(word: str) -> tuple[int, int]:
    """The shortest and longest side that a word stands for: "dynamic" is 112 to 1022, "dynamic:224-518" what it says.

    Raises:
        ValueError: it is another word.
    """
    name, colon, sides = word.strip().lower().partition(":")
    least, dash, most = sides.partition("-")
    if name == DYNAMIC and not colon:
        return USUAL_RANGE
    if name == DYNAMIC and dash and all(side.isdecimal() and len(side) < _MOST_DIGITS for side in (least, most)):
        return int(least), int(most)
    raise ValueError(f"image size {word[:40]!r} is neither numbers of pixels nor dynamic:SHORTEST-LONGEST")


def _text(path: str | Path) -> str:
    """A path as text that cannot be read as a name."""
    return str(path.expanduser().absolute()) if isinstance(path, Path) else path


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Fields in the recipe's own types."""
    values = {key: _text(value) if isinstance(value, Path) else value for key, value in settings.items()}
    for key in ("formats", "precisions", "engines", "inputs"):
        if isinstance(values.get(key), str):
            values[key] = [word.strip() for word in values[key].split(",") if word.strip()]
    if isinstance(values.get("image_size"), int):
        values["image_size"] = [(values["image_size"],) * 2]
    if isinstance(source := values.get("calibration"), str):
        values = {"evaluation": source} | values | {"calibration": {"source": source}}
    if isinstance(heads := values.get("heads"), dict):
        values["heads"] = {name: _text(head) for name, head in heads.items()}
    return values
