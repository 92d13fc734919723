"""The two Protocols of a backend: `Backend` turns a float model or a plan into an artifact, `Runner` runs one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from edgekit.artifact import OUTPUT_NAMES, Artifact, Format, Precision, Preprocess, TensorSpec, Variant

if TYPE_CHECKING:
    from edgekit.graph.heads import Head
    from edgekit.models.vit import DinoV2
    from edgekit.plan.heads import HeadPlan
    from edgekit.plan.quant import QuantPlan


Overflow = Literal["auto", "none", "u8u8", "reduce-range"]
"""Cure for CPUs whose u8*s8 products saturate: "u8u8" stores weights as uint8, "reduce-range" is in the plan already
(7-bit weights), "auto" decides by this CPU."""


WEIGHT_ONLY: frozenset[Precision] = frozenset({"w8", "w4"})
"""Integer weights, float inputs of the GEMMs."""


@dataclass(frozen=True)
class ExportSource:
    """What a backend exports: the baked FP32 model, and the plan when the precision is an integer one.

    `model` takes ImageNet-normalised pixels, or RGB 0..255 when `preprocess.normalize == "graph"` (already folded into
    its patch embedding). `plan` is None for fp32 and fp16. `heads` are further outputs by name.
    `head_plan` has their integers; without one they stay float.
    `calibration` (n, 3, H, W), images as the model takes them, is for w8a16, whose every tensor has a range.
    """

    model: DinoV2
    preprocess: Preprocess
    plan: QuantPlan | None
    model_name: str
    licence: str
    parent_sha256: str
    recipe_digest: str
    overflow: Overflow = "auto"
    heads: Mapping[str, Head] = field(default_factory=dict)
    head_plan: HeadPlan | None = None
    calibration: np.ndarray | None = None

    @property
    def eight_bits(self) -> bool:
        """Whether two products of its weights with 255 can exceed 16 bits: some have more than 7."""
        assert self.plan is not None
        layers = self.head_plan.layers.values() if self.head_plan else ()
        return any(gemm.weight_bits > 7 for gemm in self.plan.gemms.values()) or any(
            np.abs(layer.weight).max() > 63 for layer in layers
        )

    def exceptions(self) -> list[str]:
        """What a file of an integer precision has in other numbers than most of it, a sentence each."""
        assert self.plan is not None
        return self.plan.exceptions() + (self.head_plan.notes() if self.head_plan else [])


def outputs_of(source: ExportSource) -> tuple[TensorSpec, ...]:
    """The contract's two outputs, then one of each head."""
    config = source.model.config
    tokens = config.tokens(*source.preprocess.input_size)
    shapes: dict[str, tuple[int, ...]] = dict(zip(OUTPUT_NAMES, ((tokens, config.width), (config.width,)), strict=True))
    shapes |= {name: head.shape(config.grid) for name, head in source.heads.items()}
    return tuple(TensorSpec(name=name, dtype="float32", shape=("batch", *shape)) for name, shape in shapes.items())


def folded_tensors(source: ExportSource) -> dict[str, np.ndarray]:
    """`edgekit.surgery.state_of` of the model with LayerScale and attention scale folded: equal, with fewer ops."""
    from copy import deepcopy

    from edgekit.surgery import state_of
    from edgekit.surgery.fold_attention_scale import fold_attention_scale
    from edgekit.surgery.fold_layerscale import fold_layerscale

    model = deepcopy(source.model)
    fold_layerscale(model)
    fold_attention_scale(model)
    return state_of(model)


@runtime_checkable
class Runner(Protocol):
    """A loaded artifact. Always fed (B, 3, H, W) float32, whatever the file's own layout; outputs by contract name."""

    artifact: Artifact

    def __call__(self, pixel_values: np.ndarray) -> dict[str, np.ndarray]:
        """`last_hidden_state` (B, N, D), `pooler_output` (B, D) and what the heads put out, float32."""
        ...


@runtime_checkable
class Backend(Protocol):
    """One file format. A backend is one file and one row of `edgekit.backends.BACKENDS`, imported on first use."""

    format: ClassVar[Format]

    def missing(self) -> str | None:
        """None when export works here; else a sentence that says what is missing and the command that mends it."""
        ...

    def runner_missing(self) -> str | None:
        """None when artifacts run here; else why not and the mending command."""
        ...

    def variants(self) -> tuple[tuple[Precision, Variant], ...]:
        """Every (precision, variant) this backend can write."""
        ...

    def filename(self, precision: Precision, variant: Variant) -> str:
        """File name inside OUT/<format>/, e.g. "model_w8a8_fused.onnx"."""
        ...

    def export(self, source: ExportSource, precision: Precision, variant: Variant, path: Path) -> Artifact:
        """Write `path` atomically and describe it. Raises ExportError or BackendMissing."""
        ...

    def read(self, path: Path) -> Artifact:
        """The artifact that a file says it is, by the manifest in its metadata. Raises BackendMissing or DataError."""
        ...

    def runner(self, artifact: Artifact, threads: int | None = None) -> Runner:
        """Load an artifact; None lets the runtime choose its thread count. Raises BackendMissing or DataError."""
        ...

    def audit(self, artifact: Artifact) -> dict[str, object]:
        """Placement and fusion: GEMMs in INT8 and in float, attention blocks fused, ops that fell back."""
        ...
