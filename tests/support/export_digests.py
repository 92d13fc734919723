"""Digests of every file that the backends write, to compare two states of the code.

A change that must not change what is written is proved by two runs, one before it and one after it:

    python -m tests.support.export_digests before.json
    python -m tests.support.export_digests after.json --against before.json

Models are tiny and random, with plans rounded to nearest; `--demo` takes the demo checkpoint instead. Each
file gets two digests: of its bytes (metadata included), and of the outputs it computes here for fixed pixels.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch

from edgekit.artifact import FORMATS, Format, Preprocess
from edgekit.backends import Backend, get_backend
from edgekit.backends.source import ExportSource
from edgekit.errors import EdgekitError
from edgekit.files import sha256_of
from edgekit.graph.heads import Head
from edgekit.models.vit import VisionTransformer, random_model
from edgekit.plan.heads import HeadPlan
from edgekit.plan.quant import QuantPlan
from edgekit.precision import Precision, Variant
from edgekit.quantization.heads import quantize_heads
from tests.support import models
from tests.support.official_heads import every_kind
from tests.support.plans import rtn_plan

SIZE = (70, 56)  # (height, width) in pixels
DEEPER = replace(models.TINY_REG, arch="deeper", depth=4)  # with heads


def bodies(demo: bool) -> Iterator[tuple[str, VisionTransformer]]:
    """Names and models to export."""
    if demo:
        from edgekit.models import zoo

        yield "demo", zoo.load("demo").model
        return
    for config in (models.TINY, models.TINY_REG, models.TINY_SWIGLU, DEEPER):
        yield config.arch, random_model(config)


def pixels(batch: int, seed: int) -> torch.Tensor:
    """(batch, 3, H, W) normal noise."""
    return torch.randn(batch, 3, *SIZE, generator=torch.Generator().manual_seed(seed))


def plans(model: VisionTransformer, every: Mapping[str, Head]) -> Iterator[tuple[str, str, QuantPlan, HeadPlan | None]]:
    """Label, precisions it is for (a prefix), backbone plan and head plan."""
    seen = pixels(8, seed=1)
    block = "blocks.1.mlp.fc1"
    yield "static", "w8", rtn_plan(model, seen), None
    yield "token_scaled", "w8", rtn_plan(model, seen, inputs="token_scaled"), None
    yield "token_groups", "w8", rtn_plan(model, seen, inputs="token_groups"), None
    yield "matmuls", "w8a8", rtn_plan(model, seen, level="all"), None
    yield "part_float", "w8a8", rtn_plan(model, seen, keep_float=(block,) if model.config.ffn == "mlp" else ()), None
    yield "groups", "w4", rtn_plan(model, seen, bits=4, group_size=32), None
    yield "zero_points", "w4", rtn_plan(model, seen, bits=4, group_size=32, zero_points=True), None
    if every:
        yield "heads", "w8a8", rtn_plan(model, seen), quantize_heads(model, every, seen.numpy())


def digests(demo: bool, formats: tuple[Format, ...]) -> dict[str, list[str]]:
    """Name of each file -> digest of its bytes, digest of its outputs (or why there are none)."""
    found: dict[str, list[str]] = {}
    for name, model in bodies(demo):
        baked = model.bake(*SIZE)
        every = every_kind(baked.config) if name == DEEPER.arch else {}
        jobs: list[tuple[str, str, QuantPlan | None, Mapping[str, Head], HeadPlan | None]]
        jobs = [("float", "fp", None, every, None)]
        for label, precisions, plan, head_plan in plans(baked, every):
            jobs.append((label, precisions, plan, every if head_plan else {}, head_plan))
        for (label, precisions, plan, heads, head_plan), format_ in product(jobs, formats):
            source = ExportSource(
                baked,
                Preprocess.for_size(*SIZE),
                plan,
                "tiny",
                "MIT",
                "0" * 64,
                "digest",
                heads=heads,
                head_plan=head_plan,
                calibration=pixels(4, seed=1).numpy(),
            )
            backend = get_backend(format_)
            for precision, variant in backend.variants():
                if precision.startswith(precisions):
                    key = f"{name} {label} {format_}/{precision} {variant}"
                    found[key] = _digests_of(backend, source, precision, variant)
                    print(key, *(digest[:60] for digest in found[key]), flush=True)
    return found


def _digests_of(backend: Backend, source: ExportSource, precision: Precision, variant: Variant) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / backend.filename(precision, variant)
        try:
            artifact = backend.export(source, precision, variant, path)
            outputs = backend.runner(artifact, threads=1)(pixels(1, seed=2).numpy())
        except EdgekitError as error:
            return [f"{type(error).__name__}: {error.what}", ""]
        return [sha256_of(path), _of_arrays(outputs)]


def _of_arrays(outputs: dict[str, np.ndarray]) -> str:
    total = hashlib.sha256()
    for name in sorted(outputs):
        total.update(name.encode() + np.ascontiguousarray(outputs[name]).tobytes())
    return total.hexdigest()


def compared(before: dict[str, list[str]], after: dict[str, list[str]]) -> tuple[str, int]:
    """A table of what is the same, and how many files compute other numbers."""
    rows, differing = [], 0
    for key in sorted(before | after):
        old, new = before.get(key), after.get(key)
        if old is None or new is None:
            verdict = "only before" if new is None else "only after"
        elif old[0] == new[0]:
            verdict = "same bytes" if new[1] else "refused alike"
        elif old[1] == new[1] and new[1]:
            verdict = "same outputs"
        else:
            verdict, differing = "DIFFERS", differing + 1
        rows.append(f"{key:48} {verdict}")
    return "\n".join(rows), differing


def main() -> int:
    """Write the digests, and compare them where there is something to compare with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="digests are written here")
    parser.add_argument("--against", type=Path, help="digests of an earlier run")
    parser.add_argument("--demo", action="store_true", help="the demo checkpoint instead of tiny random models")
    parser.add_argument("--format", default=",".join(FORMATS), help="formats, separated by commas")
    given = parser.parse_args()
    found = digests(given.demo, tuple(given.format.split(",")))
    given.file.write_text(json.dumps(found, indent=1) + "\n")
    if given.against is None:
        return 0
    table, differing = compared(json.loads(given.against.read_text()), found)
    print(table)
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
