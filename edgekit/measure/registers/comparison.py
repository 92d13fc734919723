"""Results of a comparison of two checkpoints: outlier tokens, objects, latency."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.artifact import Frozen
from edgekit.images.boxes import Box
from edgekit.measure.latency import Speedup
from edgekit.measure.ratio import ratio, ratio_range
from edgekit.measure.registers.attention import Inside
from edgekit.measure.registers.discovery import Found
from edgekit.measure.registers.norms import NormReport


class Side(Frozen):
    """Results of one checkpoint.

    `corloc` is the share of annotated images whose box is right, `salient_iou` the mean IoU of boxes with the saliency
    head's, `object_share` the mean share of the image that boxes take; None where there is no truth.
    """

    name: str
    registers: int
    tokens: int
    norms: NormReport
    corloc: float | None
    salient_iou: float | None
    object_share: float
    p50_ms: float | None  # None when nothing was timed
    unstable: str  # why its time is in doubt, or why there is none; empty when all is well


class RegistersReport(Frozen):
    """A against B on n images. `same_object` is the share of images whose two boxes have an IoU above 0.5; `speedup` is
    how many times faster B is than A, in torch, measured in turns.
    """

    a: Side
    b: Side
    images: int
    annotated: int
    image_size: tuple[int, int]
    source: str
    same_object: float
    speedup: Speedup | None

    @property
    def sentence(self) -> str:
        """The difference of the two checkpoints in one sentence."""
        found = (
            f"outlier patches {100 * self.a.norms.outlier_share:.2f} % in {self.a.name}, "
            f"{100 * self.b.norms.outlier_share:.2f} % in {self.b.name}"
        )
        if self.a.corloc is not None and self.b.corloc is not None:
            found += f"; CorLoc {100 * self.a.corloc:.0f} % and {100 * self.b.corloc:.0f} %"
        if self.speedup is not None:
            slower, low, high = (1 / value for value in (self.speedup.value, self.speedup.high, self.speedup.low))
            found += (
                f"; {self.b.name} takes {ratio(slower, low, high)} as long ({ratio_range(low, high)}) "
                f"for {self.b.tokens} tokens, not {self.a.tokens}"
            )
        return found


@dataclass(frozen=True)
class Looked:
    """One checkpoint with all that pictures need."""

    name: str
    inside: Inside
    found: list[Found]
    boxes: list[Box]
