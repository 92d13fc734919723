"""Findings of `explain` about a plan, as the records that explain.json and the report hold; needs no torch."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from edgekit.artifact import Frozen
from edgekit.errors import DataError
from edgekit.files import atomic_path, read_text

FILE = "explain.json"  # inside a build folder


class GemmDrift(Frozen):
    """One GEMM (or the attention products of a block) quantized alone."""

    name: str
    sqnr_db: float
    noise_share: float  # of the sum over all rows
    input_kind: str
    input_peak: float | None = None  # abs-max of its input after the rewrites
    peak_channel: int | None = None
    peak_token: str = ""  # "class", "register 2", "patch 131"
    peak_over_median: float | None = None  # that abs-max over the median channel's
    before: float | None = None  # the same ratio before the rewrites
    alpha: float | None = None  # of the smoothing chosen


class BlockDrift(Frozen):
    """Signal to noise (dB) of the residual stream behind one block, by kind of token."""

    block: int
    all_db: float
    class_db: float
    register_db: float | None
    patch_db: float


class LayerDrift(Frozen):
    """Drift of the 8-bit plan behind every block, on the first evaluation images; every build measures it."""

    images: int
    blocks: tuple[BlockDrift, ...]


class Explanation(Frozen):
    """Sources of the drift of one plan, measured on images of the user's choice; all figures are dB of SQNR."""

    images: int
    whole_db: float
    per_token_db: float  # the same integers with a range per token, as the fused ops run them
    weights_only_db: float
    inputs_only_db: float | None  # None where the plan leaves all inputs float
    saturating_db: float | None  # on a saturating CPU if the file has no overflow workaround
    gemms: tuple[GemmDrift, ...]  # the costliest first
    blocks: tuple[BlockDrift, ...]
    kept_float: dict[str, str]
    promoted: dict[str, str] = Field(default={})  # 8 bits where others have 4
    steps: dict[str, dict[str, float]] | None = None  # of `edgekit.quantization.ablate`

    @classmethod
    def read(cls, folder: Path) -> Explanation | None:
        """The explain.json of a build folder; None when there is none, or none that this edgekit can read."""
        try:
            return cls.model_validate_json(read_text(folder / FILE))
        except (OSError, ValueError, DataError):
            return None

    def write(self, folder: Path) -> Path:
        """Write explain.json into a build folder, for its report."""
        with atomic_path(folder / FILE) as temporary:
            temporary.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return folder / FILE
