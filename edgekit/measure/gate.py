"""The gate: whether the artifacts of a build folder keep to limits, and have not fallen behind a baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from pydantic import Field

from edgekit.artifact import IMAGE_NAME, Frozen
from edgekit.errors import RecipeError
from edgekit.files import atomic_path, sha256_of
from edgekit.manifest import ArtifactRow, Manifest
from edgekit.measure.ratio import ratio_range
from edgekit.precision import is_float

SLACK = 0.05  # of the speedup over FP32: a loss smaller than this is no regression
DRIFT_SLACK = 0.1  # of the baseline's cosine drop
DRIFT_FLOOR = 1e-5  # cosine drops closer than this are the same


class Limits(Frozen):
    """Limits of what each quantized artifact may lose and cost; None is no limit."""

    cosine_drop: float | None = None  # 1 - mean class-token cosine
    neighbour_drop: float | None = None  # share of images whose nearest neighbour changed
    knn_drop: float | None = None  # of k-NN accuracy, on labelled images
    p50_ms: float | None = None
    head_drops: dict[str, float] = Field(default_factory=dict)
    """By head: 1 - top-1 agreement, 1 - mIoU, RMSE in metres, or MAE, as its task has it."""


Limited = Literal["cosine drop", "neighbour drop", "knn drop", "p50 ms"]
Name = Limited | Literal["file", "baseline row", "baseline drift", "baseline speedup"]
_SHARES = ("top-1 agreement", "mIoU")  # measures of heads that fall as drift grows


class Check(Frozen):
    """One comparison and its outcome; `skipped` says that it means nothing on this machine, and why.

    `name` is one of `Name`, or "head drop NAME".
    """

    artifact: str
    name: str
    outcome: Literal["passed", "failed", "skipped"]
    reason: str


def check_build(folder: Path, limits: Limits, *, baseline: Path | None = None) -> tuple[Check, ...]:
    """Compare a build folder with limits and with an earlier build; every artifact's bytes are compared, too.

    Absolute limits hold for quantized artifacts. A limit on something that was not measured fails. Against a baseline,
    speed is the ratio to FP32 of the same interleaved run, and only intervals that lie apart are a regression.

    Args:
        folder: the build folder.
        limits: absolute limits.
        baseline: a manifest.json that was kept, or its folder.

    Raises:
        DataError: a manifest is missing or damaged.
        RecipeError: the build holds no quantized artifact for the limits to apply to.
    """
    manifest = Manifest.read(folder)
    rows = manifest.artifacts
    if limits != Limits() and not any(not is_float(row.precision) and row.status != "not here" for row in rows):
        raise RecipeError(f"{folder} holds no quantized artifact", fix=f"edgekit build --precision w8a8 --out {folder}")
    checks = [_file(folder, row) for row in rows]
    for row in rows:
        if row.status == "ok" and not is_float(row.precision):
            checks += _within(row, limits)
    if baseline is not None:
        kept = Manifest.read(baseline.parent if baseline.name == "manifest.json" else baseline)
        checks += compare_builds(manifest, kept)
    return tuple(checks)


def write_junit(checks: tuple[Check, ...], path: Path) -> Path:
    """Write the checks as JUnit XML (one test case each), atomically."""
    counts = {name: sum(check.outcome == name for check in checks) for name in ("failed", "skipped")}
    suite = ElementTree.Element(
        "testsuite",
        name="edgekit check",
        tests=str(len(checks)),
        errors="0",
        failures=str(counts["failed"]),
        skipped=str(counts["skipped"]),
    )
    for check in checks:
        case = ElementTree.SubElement(suite, "testcase", classname=check.artifact, name=check.name)
        if check.outcome != "passed":
            tag = "failure" if check.outcome == "failed" else "skipped"
            ElementTree.SubElement(case, tag, message=check.reason)
    with atomic_path(path) as temporary:
        ElementTree.ElementTree(suite).write(temporary, encoding="utf-8", xml_declaration=True)
    return path


def _file(folder: Path, row: ArtifactRow) -> Check:
    """Check that the artifact is there, byte for byte as it was measured."""
    if row.status != "ok" or row.path is None:
        outcome: Literal["failed", "skipped"] = "skipped" if row.status == "not here" else "failed"
        return Check(artifact=row.name, name="file", outcome=outcome, reason=row.reason or row.status)
    try:
        same = sha256_of(folder / row.path) == row.sha256
    except OSError as error:
        return Check(artifact=row.name, name="file", outcome="failed", reason=f"{row.path}: {error.strerror}")
    reason = "as it was measured" if same else f"{row.path} is not the file that was measured"
    return Check(artifact=row.name, name="file", outcome="passed" if same else "failed", reason=reason)


def _within(row: ArtifactRow, limits: Limits) -> list[Check]:
    drift = row.drift or {}
    cosine, agreement, knn = (drift.get(key) for key in ("cls_cosine_mean", "nn_agreement", "knn_drop"))
    checks = []
    if limits.cosine_drop is not None:
        checks.append(_limit(row, "cosine drop", None if cosine is None else 1 - cosine, limits.cosine_drop))
    if limits.neighbour_drop is not None:
        value = None if agreement is None else 1 - agreement
        checks.append(_limit(row, "neighbour drop", value, limits.neighbour_drop))
    if limits.knn_drop is not None:
        checks.append(_limit(row, "knn drop", knn, limits.knn_drop))
    if limits.p50_ms is not None:
        if row.latency is None and (why := _untimed(row)):
            checks.append(Check(artifact=row.name, name="p50 ms", outcome="skipped", reason=why))
        else:
            checks.append(_limit(row, "p50 ms", (row.latency or {}).get("p50_ms"), limits.p50_ms))
    return checks + [_head(row, name, most) for name, most in limits.head_drops.items()]


def _head(row: ArtifactRow, name: str, most: float) -> Check:
    """One head against its limit, in the unit of its task."""
    heads = (row.drift or {}).get("heads", {})
    if name not in heads:
        there = f"its heads are {', '.join(sorted(heads))}" if heads else "no head of it was measured"
        return Check(artifact=row.name, name=f"head drop {name}", outcome="failed", reason=there)
    found = heads[name]
    share = found["measure"] in _SHARES
    drop = round(1 - found["value"] if share else found["value"], 6)
    measure = f"1 - {found['measure']}" if share else f"{found['measure']} {found['unit']}".rstrip()
    reason = f"{measure} {drop:.6g}, at most {most:g} is allowed"
    outcome: Literal["passed", "failed"] = "passed" if drop <= most else "failed"
    return Check(artifact=row.name, name=f"head drop {name}", outcome=outcome, reason=reason)


def _limit(row: ArtifactRow, name: Limited, value: float | None, most: float) -> Check:
    if value is None:
        labelled = " (its images lie in a folder per class)" if name == "knn drop" else ""
        reason = f"not measured{labelled}, or on too few images to be a number"
        return Check(artifact=row.name, name=name, outcome="failed", reason=reason)
    outcome: Literal["passed", "failed"] = "passed" if round(value, 6) <= most else "failed"
    return Check(artifact=row.name, name=name, outcome=outcome, reason=f"{value:.6g}, at most {most:g} is allowed")


def _untimed(row: ArtifactRow) -> str:
    """Why a finished artifact has no latency here, empty when there is no good reason."""
    if row.inputs and row.inputs[0].name == IMAGE_NAME:
        return "runs the same network as the file that takes pixel_values"
    return next((note for note in row.notes if note.startswith("not timed here:")), "")


def compare_builds(manifest: Manifest, kept: Manifest) -> list[Check]:
    """Check that each artifact of an earlier build is there, and as true and as fast as it was."""
    now = {row.name: row for row in manifest.artifacts}
    same_cpu = manifest.host.get("cpu") == kept.host.get("cpu")
    checks = []
    for before in kept.artifacts:
        if before.status != "ok":
            continue
        row = now.get(before.name)
        if row is None or row.status != "ok":
            reason = "is in the baseline and not here" if row is None else f"was ok in the baseline: {row.reason}"
            checks.append(Check(artifact=before.name, name="baseline row", outcome="failed", reason=reason))
        elif not is_float(row.precision):
            checks += [_drift(row, before), _speedup(row, before, same_cpu)]
    return checks


def _drift(row: ArtifactRow, before: ArtifactRow) -> Check:
    old, new = ((r.drift or {}).get("cls_cosine_mean") for r in (before, row))
    if old is None or new is None:
        return Check(
            artifact=row.name,
            name="baseline drift",
            outcome="failed" if new is None else "skipped",
            reason="not measured " + ("now" if new is None else "in the baseline"),
        )
    worse = (1 - new) - (1 - old) > max(DRIFT_FLOOR, DRIFT_SLACK * (1 - old))
    reason = f"cosine drop {1 - new:.6f}, {1 - old:.6f} in the baseline"
    return Check(artifact=row.name, name="baseline drift", outcome="failed" if worse else "passed", reason=reason)


def _speedup(row: ArtifactRow, before: ArtifactRow, same_cpu: bool) -> Check:
    """Paired and noise-aware: fails when the best that is likely now is below the worst that was likely then."""
    old, new = before.latency or {}, row.latency or {}
    why = ""
    if not same_cpu:
        why = "the baseline is of another CPU"
    elif old.get("speedup_low") is None or new.get("speedup_high") is None:
        why = "no speedup over FP32 was measured in both"
    elif any(old.get(key) != new.get(key) for key in ("threads", "batch")):
        why = "the baseline had other threads or another batch"
    if why:
        return Check(artifact=row.name, name="baseline speedup", outcome="skipped", reason=why)
    slower = new["speedup_high"] < old["speedup_low"] * (1 - SLACK)
    now, then = (ratio_range(each["speedup_low"], each["speedup_high"]) for each in (new, old))
    reason = f"{now} as fast as FP32, {then} in the baseline"
    return Check(artifact=row.name, name="baseline speedup", outcome="failed" if slower else "passed", reason=reason)
