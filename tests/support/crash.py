"""A loader that ends its process, as broken native code does."""

from __future__ import annotations

import os
import signal


def load(argument: dict[str, object], threads: int | None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
