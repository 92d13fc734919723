"""`edgekit curate`: a small, varied calibration folder out of a large one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edgekit.cli import options


def curate(
    source: Annotated[Path, typer.Argument(help="Folder of images, nested or not.")],
    *,
    n: Annotated[int, typer.Option("-n", min=1, help="How many images to choose.")] = 256,
    out: Annotated[Path, typer.Option("--out", help="New folder for copies of them: pass it to --calib.")],
    model: options.Model = "demo",
    image_size: Annotated[int, typer.Option("--image-size", help="Of the embedding, a multiple of the patch.")] = 224,
    seed: options.Seed = 0,
    features: Annotated[
        Path | None, typer.Option("--features", help="Keep the embeddings as shards in this folder; resumable.")
    ] = None,
    engine: options.Engine = "local",
    workers: options.Workers = None,
    threads: options.WorkerThreads = None,
    ray_address: options.RayAddress = None,
    shard_size: options.ShardSize = None,
    as_json: options.Json = False,
) -> None:
    """Choose varied images: near-duplicates are left out, the rest is drawn evenly from clusters of the features.

    With --features, or with --engine ray, the embeddings are shards on disk: the same command goes on where it was
    stopped, and another -n or --seed needs no model again.
    """
    from edgekit.cli.show import Live, terminal
    from edgekit.shards import WorkerPool
    from edgekit.workflows.curate import Embedding, curate_folder

    pool = WorkerPool(engine=engine, workers=workers, threads=threads, address=ray_address)
    embedding = Embedding(model or "demo", image_size, pool, features, shard_size)
    with Live(terminal(stderr=True)) as live:
        done = curate_folder(source, out, n=n, seed=seed or 0, watcher=live, embedding=embedding)
    if as_json:
        print(json.dumps(done))
    else:
        large = "so many images are clustered in mini-batches, and near-duplicates are looked for among those drawn\n"
        large = "" if done["searched"] == "all" else large
        clusters = f"{done['clusters']} cluster{'' if done['clusters'] == 1 else 's'}"
        kept = f"features are kept in {done['features']}\n" if "features" in done else ""
        terminal().print(
            f"{done['chosen']} of {done['images']} images, evenly from {clusters} "
            f"({done['duplicates']} near-duplicates, {done['skipped']} unreadable left out)\n{large}{kept}"
            f"edgekit build --calib {out}",
            soft_wrap=True,
        )
