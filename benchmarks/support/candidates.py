"""What the matrix times: our build of a model at one size, and the peers made from it, each with its drift."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.support.matrix import Row
from benchmarks.support.peers import PEERS, Peer, features
from edgekit.artifact import Artifact
from edgekit.backends import get_backend
from edgekit.backends.placement import placement
from edgekit.files import atomic_path
from edgekit.host import describe_host
from edgekit.manifest import ArtifactRow, Manifest
from edgekit.measure.drift import DriftReport, measure_drift
from edgekit.measure.features import Features
from edgekit.measure.worker import Target
from edgekit.pipeline import build
from edgekit.pipeline.context import BuildContext
from edgekit.pipeline.records import read_record
from edgekit.pipeline.watch import Silent
from edgekit.recipe import Recipe
from edgekit.workflows.compare import artifacts_in


@dataclass(frozen=True)
class Candidate:
    """A row before it is timed, and what a worker opens; None where `row` says why not."""

    row: Row
    target: Target | None


def candidates_of(recipe: Recipe, folder: Path, suite: str) -> list[Candidate]:
    """Build a recipe of one image size, make the peers, and run all over the photographs.

    Nothing is made or run twice: `folder` keeps the artifacts, the peers' files and the drift of each.
    """
    build(recipe, folder, measure="drift", watcher=_Said())
    context = BuildContext.load(recipe, folder, Silent())
    ours = _all_ours(context, suite)
    artifacts, blank = {artifact.name: artifact for artifact in artifacts_in(folder)}, _blank(context, suite)
    formats = {peer: peer.source.partition("/")[0] for peer in PEERS}
    return ours + [_peer(peer, artifacts, context, blank) for peer in PEERS if formats[peer] in recipe.formats]


# Fused files that `--older-cpu` adds to those of the recipe, by what their names end in.
FUSED_FORMS = {"7.5bit": {"weight_bits": 7.5}}


def fused_form(recipe: Recipe, form: str, folder: Path, suite: str) -> list[Candidate]:
    """The fused files of a recipe in one of `FUSED_FORMS`: weights of 7.5 bits."""
    quantize = recipe.quantize.model_copy(update=FUSED_FORMS[form])
    formats = tuple(name for name in recipe.formats if name in ("onnx", "openvino"))
    recipe = recipe.model_copy(
        update={"formats": formats, "precisions": ("fp32", "w8a8"), "engines": ("edgekit",), "quantize": quantize}
    )
    build(recipe, folder, measure="drift", watcher=_Said())
    found = _all_ours(BuildContext.load(recipe, folder, Silent()), suite)
    return [_renamed(each, f"{each.row.artifact}_{form}") for each in found if each.row.artifact.endswith("w8a8_fused")]


def _renamed(candidate: Candidate, name: str) -> Candidate:
    target = candidate.target and candidate.target.model_copy(update={"name": name})
    return Candidate(replace(candidate.row, artifact=name), target)


def _all_ours(context: BuildContext, suite: str) -> list[Candidate]:
    artifacts, blank = {artifact.name: artifact for artifact in artifacts_in(context.out)}, _blank(context, suite)
    return [_ours(row, artifacts, context.out, blank) for row in Manifest.read(context.out).artifacts]


def _blank(context: BuildContext, suite: str) -> Row:
    """What all rows of this model, size and host have in common."""
    host = describe_host()
    return Row(
        suite=suite,
        date=str(date.today()),
        cpu=host.cpu,
        cores=host.cores_usable,
        isa=" ".join(host.isa),
        model=context.loaded.name,
        image_size=context.recipe.main_size[0],
        threads=0,
        batch=1,
        artifact="",
        engine="",
        runtime="",
        precision="",
        status="ok",
        versions=" ".join(f"{name}={version}" for name, version in host.packages.items()),
    )


def _ours(row: ArtifactRow, artifacts: dict[str, Artifact], folder: Path, blank: Row) -> Candidate:
    known = replace(
        blank,
        artifact=row.name,
        engine="NNCF" if row.name.endswith("_nncf") else "edgekit",
        runtime="onnxruntime" if row.format == "onnx" else row.format,
        precision=row.precision,
        status=row.status,
        reason=row.reason,
        size_mb=row.size_mb,
    )
    if row.status != "ok":
        return Candidate(known, None)
    record = read_record(folder, row.name)
    known = replace(known, placement=placement(row.audit or {}), **_drift(record.drift if record else None))
    if why := get_backend(row.format).why_untimed(row.precision):
        return Candidate(replace(known, status="not here", reason=why), None)
    return Candidate(known, Target.of(artifacts[row.name]))


def _peer(peer: Peer, artifacts: dict[str, Artifact], context: BuildContext, blank: Row) -> Candidate:
    """Made and run over the photographs in processes of their own: a crash is a failed row."""
    known = replace(blank, artifact=peer.name, engine=peer.engine, runtime=peer.runtime, precision=peer.precision)
    print(f"  {peer.name}", file=sys.stderr)
    size, folder = context.recipe.main_size, context.out / "peers"
    folder.mkdir(exist_ok=True)
    try:
        source = artifacts[peer.source]
        path = _apart(peer.prepare, source, context.inputs.calibration(size).pixel_values, folder)
        target = peer.target(source, path, context.recipe.model)
        drift = _drift_of(target, context, folder / f"{path.stem}.json")
    except ModuleNotFoundError as error:
        return Candidate(replace(known, status="not here", reason=f"{error.name} is not installed"), None)
    except Exception as error:  # whatever another tool raises is its row
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return Candidate(replace(known, status="failed", reason=reason), None)
    size_mb = round(path.stat().st_size / 1e6, 3) if path.exists() else None
    return Candidate(replace(known, size_mb=size_mb, **_drift(drift)), target)


def _drift_of(target: Target, context: BuildContext, kept: Path) -> DriftReport:
    """Drift of a peer on the photographs that judge our own artifacts; read from `kept` when it is there."""
    if kept.exists():
        return DriftReport.model_validate_json(kept.read_text(encoding="utf-8"))
    size = context.recipe.main_size
    exact = context.reference.features(size)
    tokens = _apart(features, target, context.inputs.evaluation(size).pixel_values)
    report = measure_drift(exact, Features(tokens, exact.grid, exact.names), candidate_name=target.name)
    with atomic_path(kept) as temporary:
        temporary.write_text(report.model_dump_json(), encoding="utf-8")
    return report


class _Said(Silent):
    """Notes and finished artifacts on stderr."""

    def note(self, text: str) -> None:
        print(f"  {text}", file=sys.stderr)

    def finished(self, row: ArtifactRow, fate: str) -> None:
        print(f"  {row.name}: {row.status} {row.reason}", file=sys.stderr)


def _apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _drift(report: DriftReport | None) -> dict[str, Any]:
    if report is None:
        return {}
    agreement = report.own.nn_agreement.value
    return {
        "images": report.n,
        "sqnr_db": round(report.sqnr_db.value, 2),
        "sqnr_low_db": round(report.sqnr_db.low, 2),
        "sqnr_high_db": round(report.sqnr_db.high, 2),
        "cls_cosine": round(report.cls_cosine.mean, 6),
        "patch_cosine": round(report.patch_cosine.mean, 6),
        "same_neighbour": None if agreement is None else round(agreement, 4),
    }
