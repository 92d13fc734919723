"""The flags that several commands share, and how their words become a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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


def recipe_from(
    *,
    file: Path | None,
    model: str | None = None,
    formats: str | None = None,
    precisions: str | None = None,
    engines: str | None = None,
    inputs: str | None = None,
    heads: str | None = None,
    sizes: str | None = None,
    calib: str | None = None,
    evaluation: str | None = None,
    samples: int | None = None,
    eval_samples: int | None = None,
    seed: int | None = None,
    recover: bool = False,
    fused_attention: bool = False,
    interpolation: str | None = None,
) -> Recipe:
    """The recipe of a file, or the default one, with every flag that was given put over it.

    Raises:
        RecipeError: an unreadable file, an unknown word or an impossible value.
    """
    from edgekit.recipe import Recipe

    base = Recipe.from_toml(file) if file else Recipe()
    values = base.model_dump()
    given = {
        "model": model,
        "formats": words_of(formats),
        "precisions": words_of(precisions),
        "engines": words_of(engines),
        "inputs": words_of(inputs),
        "image_size": sizes_of(sizes),
        "heads": heads_of(heads),
        "evaluation": evaluation,
        "evaluation_samples": eval_samples,
        "seed": seed,
        "interpolation": interpolation,
    }
    values |= {key: value for key, value in given.items() if value is not None}
    if heads is not None:
        values["own_heads"] = bool(given["heads"])
    calibration = {"source": calib, "samples": samples}
    if calib is not None and evaluation is None and base.evaluation == "demo":
        values["evaluation"] = calib  # the images of the same folder that calibration leaves
    if fused_attention:
        values["fused_attention"] = True
    if recover:
        values["quantize"]["recover"] = True
    values["calibration"] |= {key: value for key, value in calibration.items() if value is not None}
    return Recipe.make(values)


def words_of(text: str | None) -> list[str] | None:
    """ "a, b" -> ["a", "b"]."""
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def heads_of(text: str | None) -> dict[str, str] | None:
    """ "cls=a.pth,saliency=model" -> {"cls": "a.pth", "saliency": "model"}; "none" -> {}."""
    if text is None:
        return None
    if text.strip() == "none":
        return {}
    from edgekit.errors import RecipeError

    heads: dict[str, str] = {}
    for word in words_of(text) or []:
        name, _, source = word.partition("=")
        if not name or not source or name in heads:
            raise RecipeError(
                f"--heads {word!r} is not NAME=FILE",
                why="each head has a name of its own and a file",
                fix="--heads cls=head.pth,saliency=model",
            )
        heads[name] = source
    return heads


def sizes_of(text: str | None) -> list[tuple[int, int]] | None:
    """ "224,518x784" -> [(224, 224), (518, 784)]: height x width."""
    if text is None:
        return None
    from edgekit.errors import RecipeError

    sizes = []
    for word in words_of(text) or []:
        sides = word.lower().split("x")
        if not all(side.isdecimal() and len(side) < _MOST_DIGITS and int(side) for side in sides) or len(sides) > 2:
            raise RecipeError(f"image size {word[:40]!r} is not a number of pixels", fix="--image-size 224 or 224x308")
        sizes.append((int(sides[0]), int(sides[-1])))
    return sizes
