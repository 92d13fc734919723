"""Images per second and memory of `edgekit embed` in shards: this process, one worker of Ray, and two.

    python -m benchmarks.many_images OUT/onnx/model_w8a8_fused.onnx [--images DIR] [--count 192] [--rounds 3]

One thread each, in turns; on a shared machine the CPU time of an image is what can be compared. The rate leaves out
the start: it counts from the first finished shard to the last. All runs must write the same bytes. Bytes per image are
those of the files, once with class tokens alone and once with patches.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

from benchmarks.support import photos
from benchmarks.support.rows import write_csv
from edgekit.backends.loading import artifact_at
from edgekit.host import describe_host
from edgekit.images.listing import Listing
from edgekit.shards import WorkerPool
from edgekit.workflows.embed import embed_shards

RESULTS = Path(__file__).parent / "results" / "many_images.csv"
CREWS = {
    "local": WorkerPool(threads=1),
    "ray, 1 worker": WorkerPool(engine="ray", workers=1, threads=1),
    "ray, 2 workers": WorkerPool(engine="ray", workers=2, threads=1),
}


def subset(source: Path, folder: Path, count: int) -> Path:
    """Copy `count` images, evenly from the list of all of them."""
    found = Listing.scan(source)
    for i in range(min(count, len(found))):
        path = found.paths[i * len(found) // min(count, len(found))]
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, folder / path)
    return folder


def timed(model: Path, images: Path, out: Path, crew: WorkerPool, shard: int) -> dict[str, float]:
    """Rate after the first shard, seconds until that, and the largest memory of a worker."""
    begin, marks = time.perf_counter(), [(0, 0.0)]

    def mark(done: int, total: int) -> None:
        if done > marks[-1][0] and (done % shard == 0 or done == total):
            marks.append((done, time.perf_counter() - begin))

    _, ran, _ = embed_shards(model, images, out, crew, shard_size=shard, progress=mark)
    (first, start), (last, end) = marks[1], marks[-1]
    return {
        "images_per_s": (last - first) / (end - start),
        "first_shard_s": start,
        "total_s": time.perf_counter() - begin,
        "cpu_ms_per_image": 1000 * ran.cpu_s / ran.images,
        "worker_peak_mb": max(ran.workers.values()),
        "workers": max(1, len(ran.workers)),
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def bytes_per_image(folder: Path, images: int) -> float:
    return sum(path.stat().st_size for path in folder.rglob("part-*")) / images


def main() -> None:
    """Every crew in every round; a row per crew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument(
        "--images", type=Path, help="a folder; the photographs of benchmarks/support/photos.py by default"
    )
    parser.add_argument("--count", type=int, default=192)
    parser.add_argument("--shard", type=int, default=8, help="images per shard: small, so that few images show a rate")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--csv", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with suppress(PermissionError):
        os.setsid()  # Linux shares CPU time between sessions, and Ray's workers have one of their own
    artifact, host = artifact_at(arguments.model), describe_host()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        if arguments.images is None:
            photos.prepare(work / "all")
        images = subset(arguments.images or work / "all", work / "images", arguments.count)
        count = len(Listing.scan(images))
        found: dict[str, list[dict[str, float]]] = {name: [] for name in CREWS}
        reference: dict[str, bytes] | None = None
        for turn in range(arguments.rounds):
            for name, crew in CREWS.items():
                out = work / f"{turn}-{name.replace(', ', '-').replace(' ', '-')}"
                found[name].append(timed(arguments.model, images, out, crew, arguments.shard))
                reference = reference or contents(out)
                if contents(out) != reference:
                    raise SystemExit(f"{name} wrote other bytes than the first run")
                print(turn, name, {key: round(value, 2) for key, value in found[name][-1].items()}, flush=True)
        sizes = {}
        for tokens, shard in (("cls", 4096), ("patches", 64)):
            few = subset(images, work / f"few-{tokens}", count if tokens == "cls" else 64)
            embed_shards(arguments.model, few, work / tokens, CREWS["local"], tokens=tokens, shard_size=shard)
            sizes[tokens] = bytes_per_image(work / tokens, len(Listing.scan(few)))
    rows = []
    for name, runs in found.items():
        rates = [run["images_per_s"] for run in runs]
        rows.append(
            {
                "crew": name,
                "model": artifact.name,
                "image_size": "x".join(map(str, artifact.preprocess.input_size)),
                "images": count,
                "rounds": len(runs),
                "workers": int(max(run["workers"] for run in runs)),
                "images_per_s": round(median(rates), 2),
                "low": round(min(rates), 2),
                "high": round(max(rates), 2),
                "cpu_ms_per_image": round(median(run["cpu_ms_per_image"] for run in runs), 1),
                "first_shard_s": round(median(run["first_shard_s"] for run in runs), 1),
                "worker_peak_mb": round(runs[0]["worker_peak_mb"]),  # later, this process has loaded Ray, too
                "bytes_per_image_cls": round(sizes["cls"]),
                "bytes_per_image_patches": round(sizes["patches"]),
                "cpu": host.cpu,
                "cores": host.cores,
                "date": time.strftime("%Y-%m-%d"),
            }
        )
        print(rows[-1])
    write_csv(rows, arguments.csv)


if __name__ == "__main__":
    main()
