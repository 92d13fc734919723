"""`edgekit.build`: every artifact of a model, measured, as an object for scripts and notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from typing_extensions import Unpack

from edgekit.backends import LoadedModel, load
from edgekit.errors import RecipeError
from edgekit.manifest import ArtifactRow
from edgekit.models.live import is_module, save_module
from edgekit.pipeline import BuildResult
from edgekit.pipeline import build as build_recipe
from edgekit.recipe import Recipe
from edgekit.report.tables import Tables, build_tables

if TYPE_CHECKING:
    from torch.nn import Module

    from edgekit.pipeline import Watcher
    from edgekit.pipeline.stamp import Measure
    from edgekit.report.verdict import Aim

_CHECKPOINT = "checkpoint"  # folder inside a build folder, of the weights of a live module


class Settings(TypedDict, total=False):
    """Fields of a recipe in plain words, see `edgekit.recipe.Recipe.of`; `calib` is short for `calibration`."""

    formats: str | Sequence[str]
    precisions: str | Sequence[str]
    engines: str | Sequence[str]
    inputs: str | Sequence[str]
    image_size: int | Sequence[tuple[int, int]]
    interpolation: Literal["auto", "offset", "antialias", "size"]
    normalize: Literal["host", "graph"]
    calib: str | Path
    calibration: str | Path | dict[str, Any]
    evaluation: str | Path
    evaluation_samples: int
    fused: bool
    fused_attention: bool
    heads: dict[str, str | Path]
    own_heads: bool
    head_precision: Literal["int8", "float"]
    quantize: dict[str, Any]
    nncf: dict[str, Any]
    coreml: dict[str, Any]
    seed: int


@dataclass(frozen=True)
class Build(BuildResult):
    """A finished build: the result of the pipeline, and its figures for people."""

    @property
    def table(self) -> Tables:
        """Size, drift and latency of every artifact: `print` it, or end a notebook's cell with it."""
        return build_tables(self.manifest)

    @property
    def best(self) -> ArtifactRow | None:
        """The row of the artifact that was chosen by measurement, None where nothing was measured or nothing is fit."""
        choice = self.manifest.choice
        return next((row for row in self.manifest.artifacts if choice and row.name == choice.artifact), None)

    def load(self, threads: int | None = None) -> LoadedModel:
        """The best artifact that runs on this machine, opened; see `edgekit.load`."""
        return load(self.out, threads)

    def _repr_html_(self) -> str:
        """HTML that notebooks show in place of the representation."""
        return self.table._repr_html_()


def build(
    model: str | Path | Recipe | Module,
    out: Path | str,
    *,
    licence: Path | str | None = None,
    measure: Measure = "all",
    threads: int | None = None,
    aim: Aim | None = None,
    remeasure: bool = False,
    watcher: Watcher | None = None,
    **settings: Unpack[Settings],
) -> Build:
    """Build every artifact of a recipe into `out`, measure drift and latency, and write the report.

    Run it again and only what is missing is made, see `edgekit.pipeline.build`.

    Args:
        model: a name of `edgekit models`, the path of a checkpoint, a recipe, or a live torch module: a DINOv2 or
            DINOv3 of transformers, timm or torch.hub, whose weights are kept in `out`/checkpoint.
        out: the build folder.
        licence: a file, for a live module whose licence wants its text with every copy: DINOv3's LICENSE.md.
        measure: drift and latency, drift alone, or neither.
        threads: of each runtime while latency is measured; None leaves it to the runtime.
        aim: choose among the artifacts for this; None is for latency.
        remeasure: time all artifacts again even where nothing has changed.
        watcher: told what happens.
        **settings: fields of the recipe.

    Raises:
        RecipeError: unknown model or field, or impossible request.
        DataError: images or checkpoint cannot be read, `out` cannot be written or holds another model.
        BackendMissing: torch is not installed.

    Examples:
        >>> import edgekit
        >>> asked = {"formats": "onnx", "precisions": "fp32,w8a8", "fused": False, "image_size": 70}
        >>> done = edgekit.build("vit.safetensors", "OUT", calib="photos", **asked)
        >>> print(done.table)
        timed together: ...
        artifact   status   MB ... p50 ms  speed  grade
        onnx/fp32  ok ...
        onnx/w8a8  ok ...
        >>> done.best.status, done.report.name
        ('ok', 'report.html')
    """
    if is_module(model):
        text = Path(licence) if licence is not None else None
        model = save_module(model, Path(out) / _CHECKPOINT, licence=text)  # type: ignore[arg-type]
    done = build_recipe(
        model,  # type: ignore[arg-type]
        out,
        measure=measure,
        threads=threads,
        aim=aim,
        remeasure=remeasure,
        watcher=watcher,
        **_fields(settings),
    )
    return Build(**{field.name: getattr(done, field.name) for field in fields(done)})


def _fields(settings: Settings) -> dict[str, Any]:
    """Settings under the names of the recipe."""
    values: dict[str, Any] = dict(settings)
    if "calib" in values:
        if "calibration" in values:
            raise RecipeError("calib and calibration are one setting", fix="leave one out")
        values["calibration"] = values.pop("calib")
    return values
