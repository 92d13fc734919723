"""`edgekit embed`: features of a folder of images, computed by any artifact, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgekit.cli import options

if TYPE_CHECKING:
    from edgekit.shards import WorkerPool

Tokens = Literal["cls", "patches", "all"]


def embed(
    model: Annotated[Path, typer.Argument(help="An artifact, or a build folder: the best artifact that runs here.")],
    images: Annotated[str, typer.Argument(help="A folder of images, or `demo`.")],
    *,
    out: Annotated[
        Path, typer.Option("--out", help="The .npz or .safetensors file, or a folder: of shards, or pictures.")
    ],
    tokens: Annotated[Tokens, typer.Option("--tokens", help="Which features to keep.")] = "cls",
    samples: Annotated[int | None, typer.Option("--samples", min=1, help="At most this many images.")] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images per call.")] = 1,
    threads: options.WorkerThreads = None,
    engine: options.Engine = "local",
    workers: options.Workers = None,
    ray_address: options.RayAddress = None,
    shard_size: options.ShardSize = None,
    visualize: Annotated[bool, typer.Option("--visualize", help="Pictures and a page instead of features.")] = False,
    beside: Annotated[
        Path | None, typer.Option("--beside", help="With --visualize: a second artifact, INT8 beside FP32.")
    ] = None,
    attention: Annotated[
        str | None, typer.Option("--attention", help="With --visualize: the float model that shows its attention.")
    ] = None,
    show: Annotated[int, typer.Option("--show", min=1, help="With --visualize: how many images get pictures.")] = 12,
    as_json: options.Json = False,
) -> None:
    """Features of your images: one row per image, with the images' names and folder labels.

    An --out without a suffix becomes a folder of shards (Parquet, and safetensors for patch tokens) that any number of
    images fits in; the same command goes on where it was stopped, on this machine or with --engine ray on many.

    With --visualize: patch features as colours, nearest neighbours and attention maps, as PNG files and a page.
    """
    import json

    from edgekit.cli.show import Live, terminal
    from edgekit.errors import RecipeError
    from edgekit.shards import WorkerPool
    from edgekit.workflows.embed import embed_folder

    if visualize:
        from edgekit.workflows.visualize import Options
        from edgekit.workflows.visualize import visualize as draw

        with Live(terminal(stderr=True)) as live:
            shown = Options(beside, attention, samples, show)
            page = draw(model, images, out, shown, threads=threads, progress=live.stage)
        print(json.dumps({"page": str(page)}) if as_json else page)
        return
    if beside is not None or attention is not None:
        raise RecipeError("--beside and --attention draw pictures", fix="--visualize")
    if not out.suffix:
        _sharded(
            model,
            images,
            out,
            WorkerPool(engine=engine, workers=workers, threads=threads, address=ray_address),
            tokens=tokens,
            samples=samples,
            batch=batch,
            shard_size=shard_size,
            as_json=as_json,
        )
        return
    if engine != "local" or workers is not None or ray_address is not None or shard_size is not None:
        raise RecipeError(f"{out} is one file", why="engines and shards write a folder", fix="--out features")
    with Live(terminal(stderr=True)) as live:
        done = embed_folder(
            model,
            images,
            out,
            tokens=tokens,
            samples=samples,
            batch=batch,
            threads=threads,
            progress=lambda count, total: live.stage("embed", count, total),
        )
    if as_json:
        print(
            json.dumps(
                {
                    "out": str(out),
                    "model": done.model,
                    "reason": done.reason,
                    "shape": done.shape,
                    "skipped": done.skipped,
                }
            )
        )
        return
    print(f"{out}: {done.shape[0]} images, {' x '.join(map(str, done.shape[1:]))} float32 each, by {done.model}")
    print(f"  {done.reason}")
    for name, reason in done.skipped:
        print(f"  skipped {name}: {reason}")


def _sharded(
    model: Path,
    images: str,
    out: Path,
    pool: WorkerPool,
    *,
    tokens: Tokens,
    samples: int | None,
    batch: int,
    shard_size: int | None,
    as_json: bool,
) -> None:
    """A folder of shards, and a few words on it."""
    import json

    from edgekit.cli.show import Live, show_shards, terminal
    from edgekit.errors import RecipeError
    from edgekit.workflows.embed import embed_shards

    if samples is not None:
        raise RecipeError("--samples is of one file", why="shards are of all images", fix="--out features.npz")
    with Live(terminal(stderr=True)) as live:
        name, ran, reason = embed_shards(
            model,
            images,
            out,
            pool,
            tokens=tokens,
            batch=batch,
            shard_size=shard_size,
            progress=lambda done, total: live.stage("embed", done, total),
        )
    if as_json:
        print(json.dumps({"out": str(out), "model": name, "reason": reason, **ran.summary()}))
    else:
        show_shards(terminal(), out, f"by {name}", ran)
        print(f"  {reason}")
