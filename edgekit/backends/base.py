"""The contract of a file format: `Backend` turns a float model or a plan into an artifact, `Runner` runs one."""

from __future__ import annotations

import platform
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, final, runtime_checkable

import numpy as np

from edgekit.artifact import FORMATS, INPUT_NAME, Artifact, Format, TensorSpec
from edgekit.backends.metadata import artifact_from
from edgekit.backends.source import ExportSource, outputs_of
from edgekit.errors import BackendMissing, DataError, EdgekitError, ExportError
from edgekit.files import atomic_path, sha256_of, size_mb_of
from edgekit.precision import Precision, Variant, is_float

if TYPE_CHECKING:
    from edgekit.recipe import Engine, Recipe


_NO_MEMORY = re.compile(r"MemoryError|bad_?alloc|bad allocation|cannot allocate|failed to allocate", re.IGNORECASE)

Described = dict[str, object]
"""The fields of an `Artifact` in JSON's types that are known before its file is written."""


@runtime_checkable
class Runner(Protocol):
    """A loaded artifact. Always fed (B, 3, H, W) float32, whatever the file's own layout; outputs by contract name."""

    artifact: Artifact

    def __call__(self, pixel_values: np.ndarray) -> dict[str, np.ndarray]:
        """`last_hidden_state` (B, N, D), `pooler_output` (B, D) and what the heads put out, float32."""
        ...


class Backend(ABC):
    """One file format: a package of this folder and one row of `edgekit.artifact.FORMATS`, imported on first use.

    A format says what it needs and which kinds of files it writes in class attributes, and how in the hooks `write`,
    `verify`, `notes`, `manifest_of`, `load` and `inspect`. What all formats do alike is done here, once.
    """

    format: ClassVar[Format]
    title: ClassVar[str]  # for sentences: "OpenVINO"
    suffix: ClassVar[str]  # of its files: ".onnx"
    packages: ClassVar[tuple[str, ...]]  # that export imports
    runtime_packages: ClassVar[tuple[str, ...]]  # that running imports
    kinds: ClassVar[tuple[tuple[Precision, Variant], ...]]  # that it can write
    any_size: ClassVar[bool] = False  # whether its files can take images of any size
    own_kernels: ClassVar[bool] = False  # whether its standard files, too, compute as other formats' fused ones
    image_input: ClassVar[bool] = False  # whether it can put the preprocessing into the file
    untimed_precisions: ClassVar[Mapping[Precision, str]] = {}  # why a build does not time them
    integer_only: ClassVar[frozenset[Precision]] = frozenset()  # of integers throughout: their export needs images
    weight_zero_points: ClassVar[bool] = True  # whether groups of 4-bit weights can have zero points
    peers: ClassVar[Mapping[Engine, Precision]] = {}  # other engines that quantize for it, and to what
    throughput_loader: ClassVar[str | None] = None  # "module:function" that opens an artifact with parallel streams

    # What there is

    def missing(self) -> str | None:
        """None when export works here; else a sentence that says what is missing and the command that mends it."""
        return self.not_installed(self.packages)

    def runner_missing(self) -> str | None:
        """None when artifacts run here; else why not and the mending command."""
        return self.not_installed(self.runtime_packages)

    def fused_missing(self) -> str | None:
        """None when fused files can be written and run here, else why not. May compile the op library."""
        return None

    def untimed(self) -> str | None:
        """Why latency means nothing on this machine; None where it does."""
        return None

    def own_arithmetic(self, precision: Precision, variant: Variant) -> str | None:
        """Clause on what the runtime does of its own accord with such a file on this CPU; None: what its plan means."""
        return None

    def why_untimed(self, precision: Precision) -> str | None:
        """Why a build on this machine does not time files of a precision; None when it does."""
        return self.untimed_precisions.get(precision) or self.untimed() or self.runner_missing()

    def engine_missing(self, engine: Engine) -> str | None:
        """None when an engine of `peers` works here, else what is missing and the mending command."""
        return None

    # What a recipe says to this format

    def set_by(self, recipe: Recipe, *, image_input: bool = False) -> Backend:
        """This backend with the recipe's settings of its format."""
        return self

    def settings_of(self, recipe: Recipe) -> dict[str, object]:
        """The recipe's settings of this format that change its files; empty where they are the defaults."""
        return {}

    @property
    def distributions(self) -> tuple[str, ...]:
        """Packages whose versions stand in an artifact's `tools`."""
        return FORMATS[self.format].distributions

    @property
    def install(self) -> str:
        """The command that installs what the format needs."""
        return f"pip install 'edgekit[{self.format}]'"

    def not_installed(self, packages: Iterable[str]) -> str | None:
        """None when all packages can be imported, else a sentence with those that are absent."""
        absent = [package.replace("_", "-") for package in packages if find_spec(package) is None]
        if not absent:
            return None
        return f"{', '.join(absent)} not installed for Python {platform.python_version()}: {self.install}"

    def require(self, packages: Iterable[str]) -> None:
        """Raises BackendMissing when a package cannot be imported."""
        if problem := self.not_installed(packages):
            raise BackendMissing(problem, fix=self.install)

    def variants(self) -> tuple[tuple[Precision, Variant], ...]:
        """Every (precision, variant) this backend can write."""
        return self.kinds

    def filename(self, precision: Precision, variant: Variant) -> str:
        """File name inside OUT/<format>/: "model.onnx", "model_w8a8.onnx", "model_fp32_fused.onnx"."""
        return "model" + stem_of(precision, variant) + self.suffix

    # What it does

    @final
    def export(self, source: ExportSource, precision: Precision, variant: Variant, path: Path) -> Artifact:
        """Write `path` atomically, read it back, compare it with its source, and describe it.

        Raises:
            BackendMissing: a package is not installed.
            ExportError: no such kind of file, no plan, a plan that cannot be expressed, or a file unlike its source.
        """
        if problem := self.missing():
            raise BackendMissing(problem, fix=self.install)
        if (precision, variant) not in self.variants():
            raise ExportError(
                f"the {self.title} backend does not write {precision} {variant}",
                fix="--precision " + ",".join(dict.fromkeys(p for p, _ in self.variants())),
            )
        if is_float(precision):
            source = replace(source, plan=None, head_plan=None)
        elif source.plan is None:
            raise ExportError(
                f"{precision} needs a quantization plan", fix=f"edgekit quantize --model {source.model_name} --out OUT"
            )
        self._require_size(source)
        source = self.prepared(source, precision, variant)
        described = self._described(source, precision, variant)
        with atomic_path(path) as temporary:
            self.write(source, precision, variant, temporary, described)
            self.verify(source, precision, variant, temporary)
        return self.artifact_at(path, described)

    @final
    def read(self, path: Path) -> Artifact:
        """The artifact that a file says it is, by the manifest in its metadata.

        Raises:
            BackendMissing: a package that reads the format is not installed.
            DataError: missing, damaged, or not written by edgekit.
        """
        with runtime_errors(f"{path} is not a file of {self.title} that can be read"):
            return artifact_from(path, self.manifest_of(path))

    @final
    def runner(self, artifact: Artifact, threads: int | None = None) -> Runner:
        """Load an artifact on the CPU; `threads` None lets the runtime choose.

        Raises:
            BackendMissing: the runtime, or the op library of a fused file, is not here.
            DataError: the file is missing, damaged or holds another model.
        """
        if problem := self.runner_missing():
            raise BackendMissing(problem, fix=self.install)
        with runtime_errors(f"{self.title} cannot load {artifact.path}"):
            return self.load(artifact, threads)

    @final
    def audit(self, artifact: Artifact) -> dict[str, object]:
        """Placement and fusion: GEMMs in INT8 and in float, attention blocks fused, ops that fell back."""
        if problem := self.runner_missing():
            raise BackendMissing(problem, fix=self.install)
        with runtime_errors(f"{self.title} cannot look into {artifact.path}"):
            return self.inspect(artifact)

    def with_image_input(self, sibling: Artifact, source: ExportSource, path: Path) -> Artifact:
        """Write the file at `path` that computes the same as `sibling` and takes uint8 images.

        Raises:
            ExportError: the format has none, or this source cannot have one.
        """
        raise ExportError(f"{self.title} files take no images", fix="--input pixel_values")

    # Hooks of the format

    def prepared(self, source: ExportSource, precision: Precision, variant: Variant) -> ExportSource:
        """The source as this kind of file holds it; raises ExportError where it cannot."""
        return source

    @abstractmethod
    def write(
        self, source: ExportSource, precision: Precision, variant: Variant, path: Path, described: Described
    ) -> None:
        """Write the file; its metadata hold `described`."""

    @abstractmethod
    def verify(self, source: ExportSource, precision: Precision, variant: Variant, path: Path) -> None:
        """Read the file back; raises ExportError where it does not hold the plan's numbers or compute the model."""

    @abstractmethod
    def notes(self, source: ExportSource, precision: Precision, variant: Variant) -> list[str]:
        """Remarks on the file for readers of the report, a sentence each."""

    @abstractmethod
    def manifest_of(self, path: Path) -> str | None:
        """The manifest in a file's metadata, as JSON; None when there is none."""

    @abstractmethod
    def load(self, artifact: Artifact, threads: int | None) -> Runner:
        """The runner of an artifact, its packages being there."""

    @abstractmethod
    def inspect(self, artifact: Artifact) -> dict[str, object]:
        """The audit of an artifact, its packages being there."""

    def inputs_of(self, source: ExportSource) -> tuple[TensorSpec, ...]:
        """The contract's input: images (B, 3, H, W), float32."""
        height, width = ("height", "width") if source.preprocess.sides else source.preprocess.input_size
        return (TensorSpec(name=INPUT_NAME, dtype="float32", shape=("batch", 3, height, width), layout="NCHW"),)

    def outputs_of(self, source: ExportSource) -> tuple[TensorSpec, ...]:
        """The contract's outputs and the heads'."""
        return outputs_of(source)

    def artifact_at(self, path: Path, described: Described) -> Artifact:
        """The artifact whose file is written."""
        return Artifact.model_validate(
            {**described, "path": path, "sha256": sha256_of(path), "size_mb": size_mb_of(path)}
        )

    def _require_size(self, source: ExportSource) -> None:
        """Raises ExportError for a file of any size where the format has but one."""
        if source.preprocess.sides is not None and not self.any_size:
            raise ExportError(
                f"{self.title} files take images of one size", fix="--image-size 224,518: a file of each size"
            )

    def _described(self, source: ExportSource, precision: Precision, variant: Variant) -> Described:
        return {
            "name": f"{self.format}/{stem_of(precision, variant).removeprefix('_') or precision}",
            "format": self.format,
            "precision": precision,
            "variant": variant,
            "inputs": [spec.model_dump(mode="json") for spec in self.inputs_of(source)],
            "outputs": [spec.model_dump(mode="json") for spec in self.outputs_of(source)],
            "preprocess": source.preprocess.model_dump(mode="json"),
            "recipe_digest": source.recipe_digest,
            "parent_sha256": source.parent_sha256,
            "tools": {package: version(package) for package in self.distributions},
            "notes": self.notes(source, precision, variant),
        }


def require_fit(artifact: Artifact, pixel_values: np.ndarray) -> None:
    """Raises DataError for images (B, 3, H, W) of a size that a file of many sizes does not take.

    A runtime would run them: a convolution drops the pixels behind the last whole patch.
    """
    if artifact.preprocess.sides is not None and pixel_values.ndim == 4:
        artifact.preprocess.at(*pixel_values.shape[2:])


@contextmanager
def runtime_errors(problem: str) -> Iterator[None]:
    """Turn whatever a runtime raises of a file or an input into a DataError: each has exceptions of its own, and many.

    Args:
        problem: what cannot be done, with the file.
    """
    try:
        yield
    except EdgekitError:
        raise
    except Exception as error:
        if _NO_MEMORY.search(f"{type(error).__name__}: {error}"):
            why = "this machine has not enough memory for it"
            raise DataError(problem, why=why, fix="a smaller image, or fewer at once") from error
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        why = f"{type(error).__name__}: {lines[-1][:500]}" if lines else type(error).__name__
        raise DataError(problem, why=why, fix="edgekit build --out OUT") from error


def stem_of(precision: Precision, variant: Variant) -> str:
    """Suffix of a kind of file behind the name "model": "", "_fp16", "_w8a8_fused", "_fp32_fused"."""
    if variant == "standard":
        return "" if precision == "fp32" else f"_{precision}"
    return f"_{precision}_{variant}"
