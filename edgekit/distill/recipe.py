"""The typed settings of a distillation: everything but teacher, students and images that decides its result."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from edgekit.artifact import Frozen
from edgekit.settings import Switch, read_settings, validated

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Augment = Literal["none", "light", "dinov2"]
_NOT_IN_DIGEST = {"log_every", "judge_every", "checkpoint_every"}  # change nothing in what comes out


class DistillRecipe(Frozen):
    """The settings of one distillation; losses are means per token, the rate is AdamW's, `batch` is of all processes.

    The defaults follow DINOv2's own distillation (Oquab et al. 2023, section 5: frozen teacher, no masking, no
    stochastic depth, an exponential moving average of the student as the result) on features instead of prototypes.
    """

    image_size: int = Field(default=224, ge=1)  # pixels of the square crops as the teacher sees them: whole patches
    steps: int = Field(default=2000, ge=1)
    batch: int = Field(default=32, ge=1)
    copies: int = Field(default=2, ge=1)  # students of each architecture, fed the same images
    image_weights: Literal["equal", "exponential"] = "exponential"  # what makes copies differ: see `images.weights_of`
    blockwise: float = Field(default=0.4, ge=0, le=1)  # share of the steps in which blocks learn one by one
    block_rate: float = Field(default=1e-3, gt=0)  # the learning rate of that part
    rate: float = Field(default=3e-4, gt=0)
    tune_rate: float = Field(default=5e-5, gt=0)  # instead of `rate` for whole students whose blocks have learned
    final_rate: float = Field(default=1e-6, ge=0)
    warmup: float = Field(default=0.05, ge=0, lt=1)  # share of the steps of each part
    weight_decay: float = Field(default=0.04, ge=0)
    clip: float = Field(default=3.0, gt=0)  # largest norm of a student's gradient
    ema: float = Field(default=0.998, ge=0, lt=1)
    cls_weight: float = Field(default=1.0, ge=0)
    patch_weight: float = Field(default=1.0, ge=0)
    cosine_weight: float = Field(default=1.0, ge=0)
    smooth_l1_weight: float = Field(default=1.0, ge=0)
    standardise: Switch = True  # tokens by the teacher's mean and deviation before they are compared
    augment: Augment = "light"
    held_out: float = Field(default=0.1, gt=0, lt=1)  # share of the images that trains nothing and judges
    precision: Precision = "auto"  # of matrix products; "auto": bfloat16 or float16 on CUDA, float32 elsewhere
    seed: int = 0
    log_every: int = Field(default=10, ge=1)
    judge_every: int = Field(default=500, ge=1)
    checkpoint_every: int = Field(default=200, ge=1)

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of all that decides the result."""
        text = json.dumps(self.model_dump(mode="json", exclude=_NOT_IN_DIGEST), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @classmethod
    def make(cls, values: dict[str, Any]) -> DistillRecipe:
        """Validate a plain dictionary. Raises RecipeError naming each bad key, its value and the reason."""
        return validated(cls, values, "the settings of the distillation are not valid", command="distill")

    @classmethod
    def from_toml(cls, path: Path) -> DistillRecipe:
        """Read a file of settings. Raises RecipeError: missing, no TOML, or a wrong or unknown key."""
        return cls.make(read_settings(path))
