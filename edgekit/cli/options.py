"""The flags that several commands share, and how their words become a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from edgekit.precision import FACTS

if TYPE_CHECKING:
    from edgekit.recipe import Recipe

Model = Annotated[
    str | None, typer.Option("--model", help="A name of `edgekit models`, or a checkpoint file or folder.")
]
RecipeFile = Annotated[
    Path | None,
    typer.Option("--recipe", help="A recipe file, or a name of `edgekit recipes`; flags override its fields."),
]
Formats = Annotated[str | None, typer.Option("--format", help="Of onnx,openvino,coreml,tflite.", metavar="A,B")]
Precisions = Annotated[str | None, typer.Option("--precision", help=f"Of {','.join(FACTS)}.", metavar="A,B")]
Engines = Annotated[
    str | None, typer.Option("--engine", help="Of edgekit,nncf: who quantizes; nncf adds a row.", metavar="A,B")
]
Inputs = Annotated[
    str | None,
    typer.Option(
        "--input", help="Of pixel_values,image: OpenVINO and Core ML files that take images, too.", metavar="A,B"
    ),
]
FusedAttention = Annotated[
    bool,
    typer.Option(
        "--fused-attention", help="TFLite files with attention as one composite, too; not for tflite-runtime."
    ),
]
Heads = Annotated[
    str | None,
    typer.Option(
        "--heads",
        help="Tasks on the backbone: cls=FILE,seg=FILE; NAME=model takes the checkpoint's (the default); or none.",
        metavar="NAME=FILE",
    ),
]
Sizes = Annotated[
    str | None,
    typer.Option(
        "--image-size", help="Multiples of the model's patch: 224 or 224x308; the first is the main one.", metavar="S,S"
    ),
]
Interpolation = Annotated[
    str | None,
    typer.Option(
        "--interpolation",
        help="How learned positions are resized: offset (Meta), antialias (timm), size (transformers).",
        metavar="WORD",
    ),
]
RopePeriods = Annotated[
    str | None,
    typer.Option(
        "--rope-periods",
        help="Periods of rotary positions, instead of the file's: bfloat16 (Meta), float32 (transformers, timm).",
        metavar="WORD",
    ),
]
Calib = Annotated[str | None, typer.Option("--calib", help="Folder of calibration images, or `demo`.", metavar="DIR")]
Eval = Annotated[
    str | None,
    typer.Option("--eval", help="Folder of evaluation images (the one of --calib), or `demo`.", metavar="DIR"),
]
Samples = Annotated[int | None, typer.Option("--samples", min=1, help="How many images calibrate (64).")]
EvalSamples = Annotated[int | None, typer.Option("--eval-samples", min=1, help="How many images judge (32).")]
EvalImages = Annotated[int, typer.Option("--samples", min=1, help="How many images judge.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, max=2**32 - 1, help="Of every random draw (0).")]
_MOST_DIGITS = 10  # of a number of pixels
_MOST_THREADS = 1024  # edgekit.settings.MOST_THREADS, which would bring pydantic into every --help
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, max=_MOST_THREADS, help="Of each runtime while it is timed.")
]
WorkerThreads = Annotated[
    int | None,
    typer.Option("--threads", min=1, max=_MOST_THREADS, help="Of the runtime; with --engine ray of each worker (1)."),
]
Out = Annotated[Path, typer.Option("--out", help="The build folder.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output, nothing else on stdout.")]
MaxDrop = Annotated[
    float | None, typer.Option("--max-drop", min=0, max=1, help="Gate: largest 1 - class-token cosine (exit 3).")
]
Engine = Annotated[
    Literal["local", "ray"], typer.Option("--engine", help="Who computes: this process, or workers of a Ray cluster.")
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Of --engine ray: all CPUs / --threads.")]
RayAddress = Annotated[
    str | None, typer.Option("--ray-address", help="HOST:PORT of a Ray cluster, or auto; else one is started here.")
]
ShardSize = Annotated[int | None, typer.Option("--shard-size", min=1, help="Images per shard.")]
OptimizeFor = Annotated[
    Literal["latency", "size", "accuracy"] | None,
    typer.Option(
        help="Choose the artifact that is best at this among those that --max-drop allows; the manifest records it."
    ),
]
Remeasure = Annotated[
    bool, typer.Option("--remeasure", help="Time everything in OUT again, even where nothing has changed.")
]
Recover = Annotated[
    bool,
    typer.Option(
        "--recover", help="Block reconstruction: train the integers to give the float features again; takes far longer."
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Look at images, heads and checkpoint, print the plan and stop.")
]


def recipe_from(flags: Mapping[str, Any]) -> Recipe:
    """The recipe of a file, or the default one, with every flag that was given put over it.

    Args:
        flags: values by the names of a command's parameters, see `RECIPE_FLAGS`; others are left alone.

    Raises:
        RecipeError: an unreadable file, an unknown word or an impossible value.
    """
    from edgekit.recipe import Recipe

    base = Recipe.from_toml(Path(flags["recipe"])) if flags.get("recipe") else Recipe()
    values = base.model_dump()
    if flags.get("image_size") is not None:
        values["any_size"] = None  # of the file's own sizes
    for flag, (field, read) in RECIPE_FLAGS.items():
        word = flags.get(flag)
        if word is not None and word is not False:  # a switch that was not given
            table, _, key = field.rpartition(".")
            (values[table] if table else values)[key] = read(word) if read else word
    if flags.get("heads") is not None:
        values["own_heads"] = bool(values["heads"])
    if flags.get("calib") is not None and flags.get("eval_") is None and base.evaluation == "demo":
        values["evaluation"] = flags["calib"]  # the images of the same folder that calibration leaves
    return Recipe.make(values)


def words_of(text: str) -> list[str]:
    """ "a, b" -> ["a", "b"]. Raises RecipeError for a list of nothing, which no flag means."""
    from edgekit.errors import RecipeError

    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise RecipeError(f"a flag was given {text!r}, which names nothing", fix="leave the flag out, or name one")
    return words


def heads_of(text: str) -> dict[str, str]:
    """ "cls=a.pth,saliency=model" -> {"cls": "a.pth", "saliency": "model"}; "none" -> {}."""
    if text.strip() == "none":
        return {}
    from edgekit.errors import RecipeError

    heads: dict[str, str] = {}
    for word in words_of(text):
        name, _, source = word.partition("=")
        if not name or not source or name in heads:
            raise RecipeError(
                f"--heads {word!r} is not NAME=FILE",
                why="each head has a name of its own and a file",
                fix="--heads cls=head.pth,saliency=model",
            )
        heads[name] = source
    return heads


def sizes_of(text: str) -> list[tuple[int, int]]:
    """ "224,518x784" -> [(224, 224), (518, 784)]: height x width."""
    from edgekit.errors import RecipeError

    sizes = []
    for word in words_of(text):
        sides = word.lower().split("x")
        if not all(side.isdecimal() and len(side) < _MOST_DIGITS and int(side) for side in sides) or len(sides) > 2:
            raise RecipeError(f"image size {word[:40]!r} is not a number of pixels", fix="--image-size 224 or 224x308")
        sizes.append((int(sides[0]), int(sides[-1])))
    return sizes


def sizes_or_range(text: str) -> list[tuple[int, int] | str]:
    """ "224,dynamic:112-518" -> [(224, 224), "dynamic:112-518"]: the recipe knows what the word stands for."""
    from edgekit.recipe import DYNAMIC

    sizes: list[tuple[int, int] | str] = []
    for word in words_of(text):
        sizes += [word] if word.lower().startswith(DYNAMIC) else sizes_of(word)
    return sizes


RECIPE_FLAGS: dict[str, tuple[str, Callable[[str], object] | None]] = {
    "model": ("model", None),
    "format_": ("formats", words_of),
    "precision": ("precisions", words_of),
    "engine": ("engines", words_of),
    "input_": ("inputs", words_of),
    "image_size": ("image_size", sizes_or_range),
    "heads": ("heads", heads_of),
    "eval_": ("evaluation", None),
    "eval_samples": ("evaluation_samples", None),
    "seed": ("seed", None),
    "interpolation": ("interpolation", None),
    "rope_periods": ("rope_periods", None),
    "calib": ("calibration.source", None),
    "samples": ("calibration.samples", None),
    "fused_attention": ("fused_attention", None),
    "recover": ("quantize.recover", None),
}
"""Parameter of a command -> field of the recipe, and what reads its words."""
