"""A float checkpoint in torch as something that a latency worker can load."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from edgekit.measure.worker import Target
from edgekit.models import zoo


def target(name: str, model: str, size: tuple[int, int]) -> Target:
    """A worker's order to load a name of the zoo or a checkpoint, baked for one image size."""
    argument = {"model": zoo.place_of(model), "size": list(size)}
    return Target(loader=f"{__name__}:load_torch", argument=argument, name=name)


def load_torch(argument: dict[str, Any], threads: int | None) -> Callable[[np.ndarray], torch.Tensor]:
    """A callable on (B, 3, H, W) float32."""
    if threads is not None:
        torch.set_num_threads(threads)
    model = zoo.load(argument["model"]).model.bake(*argument["size"])

    @torch.inference_mode()
    def run(pixel_values: np.ndarray) -> torch.Tensor:
        hidden: torch.Tensor = model(torch.from_numpy(pixel_values))[0]
        return hidden

    return run
