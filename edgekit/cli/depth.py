"""`edgekit depth`: the depth map of a photograph, as colours and as numbers, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli import options

if TYPE_CHECKING:
    from edgekit.workflows.depth import DepthMap


def depth(
    model: Annotated[Path, typer.Argument(help="An artifact, or a build folder: the best artifact that runs here.")],
    photo: Annotated[Path, typer.Argument(help="A photograph of any shape: PNG, JPEG or WebP.")],
    *,
    out: Annotated[
        list[Path], typer.Option("--out", help="A .png of colours, or the values as .npy or .npz; may be repeated.")
    ],
    output: Annotated[
        str | None, typer.Option("--output", help="Name of the depth head, where there are several.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Of the runtime.")] = None,
    as_json: options.Json = False,
) -> None:
    """Depth of a photograph at its own size: near places are bright, the values are metres or without unit.

    The photograph is resized as the model's makers publish it. Of a build with several image sizes the one nearest to
    its shape is used.
    """
    from edgekit.workflows.depth import map_depth

    found = map_depth(model, photo, out, output=output, threads=threads)
    if as_json:
        import json

        low, high = found.range
        print(
            json.dumps(
                {
                    "out": [str(path) for path in out],
                    "model": found.model,
                    "reason": found.reason,
                    "output": found.output,
                    "unit": found.unit,
                    "range": [low, high],
                    "box": found.box,
                    "image_size": found.input_size,
                    "published_size": found.published,
                }
            )
        )
        return
    for path in out:
        print(path)
    for line in _words(found):
        print(f"  {line}")


def _words(found: DepthMap) -> list[str]:
    """The range with its unit, how the photograph was shown to the model, and by what."""
    low, high = found.range
    height, width = found.values.shape
    size, published = "x".join(map(str, found.input_size)), found.published
    lines = [f"{found.output}: {low:.3g} to {high:.3g}, {found.unit}; {height} x {width} pixels (height, width)"]
    if published is None:
        lines.append(f"seen at {size}: of the photograph the part {found.box} (left, top, right, bottom)")
    elif published == found.input_size:
        lines.append(f"seen at {size}, as published for its shape")
    else:
        wanted = "x".join(map(str, published))
        lines.append(f"stretched to {size}; published for its shape: edgekit build --image-size {wanted}")
    return [*lines, f"by {found.model}: {found.reason}"]
