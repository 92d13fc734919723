"""A distillation that ends its own process as kill -9 does, once as many steps are done as its first argument says."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from edgekit.distill.recipe import DistillRecipe
from edgekit.pipeline.watch import Silent
from edgekit.workflows.distill import Running, distil_folder


class Killer(Silent):
    """Watches until a step and kills."""

    def __init__(self, step: int) -> None:
        self._step = step

    def stage(self, name: str, done: int = 0, total: int = 0) -> None:
        if name.startswith("distil") and done == self._step:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    step, teacher, student, data, out, settings = sys.argv[1:]
    distil_folder(
        teacher,
        [student],
        Path(data),
        Path(out),
        DistillRecipe.make(json.loads(settings)),
        Running("cpu", threads=1),
        Killer(int(step)),
    )
