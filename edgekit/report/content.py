"""Everything the report shows, as data: `report.json` is this model, `report.html` is a view of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgekit.artifact import Frozen
from edgekit.errors import DataError
from edgekit.files import atomic_path, read_text
from edgekit.host import Host
from edgekit.manifest import Manifest, TimingRun
from edgekit.measure.drift import DriftReport
from edgekit.measure.latency import LatencyReport
from edgekit.quantization.explanation import Explanation, LayerDrift
from edgekit.report.verdict import Verdict

REPORT_SCHEMA: Final = "edgekit.report/1"
DataUri = str  # "data:image/webp;base64,..."


class ImagePanel(Frozen):
    """One image and what the models see in it; pictures by artifact name, all of the same size and colours."""

    name: str
    photo: DataUri
    pca: dict[str, DataUri]  # first three principal components of the patch tokens as RGB
    maps: dict[str, DataUri]  # of a dense head
    errors: dict[str, str] = Field(default_factory=dict)  # of each map against the reference's, with measure and unit


class Command(Frozen):
    """A line to type, and what it does."""

    text: str
    meaning: str


class SkippedImage(Frozen):
    """An image that could not be used, and why."""

    name: str
    reason: str


class BuildReport(BaseModel):
    """One build as it is shown. Maps are keyed by artifact name; `reference` is the one all others are compared with.

    `thumbnails` (by image name) feed the per-image table, `panels` the side-by-side pictures. `head` names
    what `panels[].maps` show, `head_note` says how.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_: Literal["edgekit.report/1"] = REPORT_SCHEMA
    manifest: Manifest
    host: Host
    reference: str
    verdict: Verdict
    drift: dict[str, DriftReport] = {}
    latency: dict[str, LatencyReport] = {}
    thumbnails: dict[str, DataUri] = {}
    panels: tuple[ImagePanel, ...] = ()
    head: str = ""
    head_note: str = ""
    evaluation: str = ""  # what the evaluation images are, for the reader
    images_digest: str = ""  # of the evaluation images' names and pixels
    calibration: str = ""
    commands: tuple[Command, ...] = ()
    layers: LayerDrift | None = None  # of the plan of 8 bits; None without one, or in reports of earlier versions
    explanation: Explanation | None = None  # of the plan of 8 bits, once `edgekit explain` has looked
    skipped: tuple[SkippedImage, ...] = ()

    @property
    def run(self) -> TimingRun | None:
        """The interleaved run that all latencies are of; None without any, or in reports of earlier versions."""
        return next((latency.run for latency in self.latency.values() if latency.run), None)

    def without_photographs(self) -> BuildReport:
        """The same figures without pictures and names of the images that they were measured on: for other eyes."""
        listed = [image.name for drift in self.drift.values() for image in drift.images]
        nearest = [image.nearest for drift in self.drift.values() for image in drift.images if image.nearest]
        skipped = [image.name for image in self.skipped]
        numbers = {name: f"image {place}" for place, name in enumerate(dict.fromkeys([*listed, *nearest, *skipped]), 1)}
        return self.model_copy(
            update={
                "drift": {name: _renamed(drift, numbers) for name, drift in self.drift.items()},
                "thumbnails": {},
                "panels": (),
                "skipped": tuple(image.model_copy(update={"name": numbers[image.name]}) for image in self.skipped),
            }
        )

    def write_json(self, folder: Path) -> Path:
        """Write `folder/report.json` atomically and return its path."""
        data = self.model_dump(mode="json")
        manifest = data.pop("manifest")
        manifest = {"schema": manifest.pop("schema_"), **manifest}
        data = {"schema": data.pop("schema_"), "manifest": manifest, **data}
        path = folder / "report.json"
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        return path

    @classmethod
    def read_json(cls, path: Path) -> BuildReport:
        """Read what `write_json` wrote; raises DataError when it is missing, damaged or of another schema."""
        try:
            data = json.loads(read_text(path))
            data["schema_"] = data.pop("schema")
            data["manifest"]["schema_"] = data["manifest"].pop("schema")
            return cls.model_validate(data)
        except FileNotFoundError:
            raise DataError(f"there is no report at {path}", fix=f"edgekit build --out {path.parent}") from None
        except OSError as error:
            raise DataError(f"{path} cannot be read", why=error.strerror or str(error), fix="build again") from None
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError, ValidationError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"{path} cannot be read as {REPORT_SCHEMA}", why=why, fix="build again") from error


def _renamed(drift: DriftReport, names: Mapping[str, str]) -> DriftReport:
    """A drift report whose images have other names."""
    images = tuple(
        image.model_copy(update={"name": names[image.name], "nearest": names.get(image.nearest, "")})
        for image in drift.images
    )
    tasks = tuple(
        task.model_copy(
            update={"images": tuple(i.model_copy(update={"name": names.get(i.name, "image")}) for i in task.images)}
        )
        for task in drift.tasks
    )
    return drift.model_copy(update={"images": images, "tasks": tasks})
