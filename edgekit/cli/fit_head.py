"""`edgekit fit-head`: a classification head for a folder of labelled images."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from edgekit.cli import options


def fit_head(
    source: Annotated[Path, typer.Argument(help="Folder with one folder of images per class.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="The head, a .safetensors file: pass it to build --heads.")],
    kind: Annotated[Literal["linear", "knn"], typer.Option("--kind", help="Logistic regression, or k-NN.")] = "linear",
    model: options.Model = "demo",
    image_size: options.Sizes = "224",
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Train a classifier on the frozen backbone's features; a fifth of the images is held out to judge it."""
    from edgekit.cli.show import Live, terminal
    from edgekit.workflows.fit_head import fit_folder

    size = (224, 224) if image_size is None else options.sizes_of(image_size)[0]
    with Live(terminal(stderr=True)) as live:
        fitted = fit_folder(source, out, model=model or "demo", kind=kind, size=size, seed=seed or 0, watcher=live)
    found = fitted.accuracy
    if as_json:
        print(
            json.dumps(
                {
                    "out": str(out),
                    "kind": kind,
                    "images": fitted.images,
                    "classes": fitted.classes,
                    "held_out": found.model_dump(),
                }
            )
        )
        return
    console = terminal()
    console.print(
        f"{out}: {kind} head, {len(fitted.classes)} classes, fitted on {fitted.images} images", soft_wrap=True
    )
    if found.value is None:
        console.print(f"held-out accuracy: {found.reason}", soft_wrap=True)
    else:
        low, high = 100 * (found.low or 0), 100 * (found.high or 0)
        console.print(
            f"held-out accuracy {100 * found.value:.1f} % ({low:.1f} to {high:.1f}) of {found.n} images, by a head "
            "that was fitted without them",
            soft_wrap=True,
        )
    words = ["edgekit", "build", "--model", model or "demo", "--heads", f"cls={out}", "--out", "OUT"]
    console.print(shlex.join(words), soft_wrap=True)
