"""The model card: README.md of a bundle, front matter by huggingface_hub, tables from what the build measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.bundle.platforms import PLATFORMS, Platform
from edgekit.errors import BackendMissing
from edgekit.manifest import ArtifactRow, Choice, Manifest
from edgekit.models.config import ARCHITECTURES
from edgekit.report.content import BuildReport
from edgekit.report.numbers import row_speed, timing
from edgekit.report.verdict import Aim, Verdict, judge

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

_TEMPLATE = Path(__file__).with_name("card.jinja")
_HUB_LICENCES = {"Apache-2.0": "apache-2.0", "MIT": "mit", "CC-BY-NC-4.0": "cc-by-nc-4.0"}
_HUB_SIZES = {"vits14": "small", "vitb14": "base", "vitl14": "large", "vitg14": "giant"}


def verdict_among(report: BuildReport, names: Mapping[str, str], choice: Choice | None = None) -> Verdict:
    """The verdict of a build on the artifacts that are in a bundle, for the aim that the build was asked for.

    Args:
        report: of the build.
        names: of the artifacts in the bundle, and what the verdict is to call each.
        choice: of the build, for its aim; None is that of the report.
    """
    aim = Aim(goal=choice.goal, max_drop=choice.max_drop) if choice else report.verdict.aim

    def label(name: str) -> str:  # what is not in the bundle must not be taken for something that is
        return names.get(name, f"{name} of the build")

    return judge(
        [row.model_copy(update={"name": label(row.name)}) for row in report.manifest.artifacts],
        {label(name): drift for name, drift in report.drift.items()},
        {label(name): latency for name, latency in report.latency.items()},
        reference=label(report.reference),
        aim=aim,
        among=set(names.values()),
    )


def model_card(
    manifest: Manifest, platforms: Sequence[Platform], report: BuildReport | None, verdict: Verdict | None
) -> str:
    """The whole README.md.

    Args:
        manifest: of the bundle.
        platforms: that it serves.
        report: of the build, for the images it was judged on; None when it has none.
        verdict: on the files of the bundle.

    Raises:
        BackendMissing: huggingface_hub or jinja2 is not installed.
    """
    try:
        from huggingface_hub import ModelCard
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise BackendMissing(f"the model card needs {error.name}", fix="pip install 'edgekit[hub,report]'") from None
    rows = [row for row in manifest.artifacts if row.preprocess is not None]
    template = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(
        _TEMPLATE.read_text(encoding="utf-8")
    )
    body = template.render(
        model=manifest.model,
        tables=_tables(manifest, rows),
        transform=rows[0].preprocess,
        platforms={platform: PLATFORMS[platform].title for platform in platforms},
        verdict=verdict if verdict and verdict.front else None,
        evaluation=report.evaluation if report else "",
        calibration=report.calibration if report else "",
        tokens=_tokens(rows),
        maps=_maps(rows),
        drift=any(row.drift for row in rows),
        quantized=any(row.path == "onnx/model_quantized.onnx" for row in rows),
    )
    return str(ModelCard(f"---\n{_front_matter(manifest, rows, platforms).to_yaml()}\n---\n\n{body}"))


def _front_matter(manifest: Manifest, rows: Sequence[ArtifactRow], platforms: Sequence[Platform]) -> ModelCardData:
    from huggingface_hub import ModelCardData

    model = manifest.model
    licence = _HUB_LICENCES.get(model["licence"])
    fields: dict[str, Any] = {"license": licence or "other"}
    if licence is None:
        fields |= {"license_name": "see-license-weights", "license_link": "LICENSE.weights"}
    arch = model["config"]["arch"]
    rotary = model["config"].get("positions") == "rope"
    if arch in ARCHITECTURES and not rotary:  # shapes of DINOv3 are those of other teachers' students, too
        size = _HUB_SIZES[arch.split("_")[1]]
        fields["base_model"] = f"facebook/dinov2-{'with-registers-' if arch.endswith('_reg') else ''}{size}"
        official = model["name"] in (arch, fields["base_model"])
        fields["base_model_relation"] = "quantized" if official else "finetune"
    return ModelCardData(
        library_name="transformers.js" if "web" in platforms else None,
        pipeline_tag="depth-estimation" if _maps(rows) else "image-feature-extraction",
        tags=["dinov3" if rotary else "dinov2", "int8", "edge", *dict.fromkeys(row.format for row in rows)],
        **fields,
    )


def _tables(manifest: Manifest, rows: Sequence[ArtifactRow]) -> list[dict[str, Any]]:
    """The files of each image size, whose latencies are of one run."""
    groups: dict[tuple[int, int], list[ArtifactRow]] = {}
    for row in rows:
        assert row.preprocess is not None
        groups.setdefault(row.preprocess.input_size, []).append(row)
    tables = []
    for (height, width), group in groups.items():
        timed = next((row for row in group if row.latency), None)
        tables.append(
            {
                "size": f"{height} x {width} pixels" if len(groups) > 1 else "",
                "rows": [_cells(row) for row in group],
                "timing": timing(manifest.run_of(timed)) if timed else "",
            }
        )
    return tables


def _tokens(rows: Sequence[ArtifactRow]) -> tuple[int | str, ...]:
    """Shape of `last_hidden_state`."""
    return rows[0].outputs[0].shape


def _maps(rows: Sequence[ArtifactRow]) -> dict[str, str]:
    """Depth maps among the outputs, each with its shape and unit in words."""
    units = {"depth": "depth in metres", "relative depth": "inverse depth without unit, near is large"}
    return {
        spec.name: f"{units[spec.task]} ({', '.join(map(str, spec.shape))})"
        for spec in rows[0].outputs
        if spec.task in units
    }


def _cells(row: ArtifactRow) -> dict[str, str]:
    """One row of the table of files; what was not measured is empty."""
    drift, latency = row.drift or {}, row.latency or {}

    def number(value: float | None, digits: int) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    return {
        "path": str(row.path),
        "precision": row.precision,
        "variant": row.variant,
        "mb": number(row.size_mb, 1),
        "sqnr": number(drift.get("sqnr_db"), 1),
        "cosine": number(drift.get("cls_cosine_mean"), 5),
        "patches": number(drift.get("patch_cosine_mean"), 5),
        "speed": row_speed(row),
        "ms": number(latency.get("p50_ms"), 1) + ("" if latency.get("stable", True) else " (unsteady)"),
    }
