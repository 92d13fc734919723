"""Imports coremltools without its greetings: on Linux it warns about every part of it that only macOS has."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from types import ModuleType

_TALKATIVE = ("coremltools", "torchao", "torch.utils._pytree")  # the latter two through its optimizers
_ALONE = threading.RLock()
PINNED = "9.0"  # what the MIL builder, the reader of saved programs and the tests were written against


def coremltools() -> ModuleType:
    """The package, quiet."""
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    with quiet():
        import coremltools as ct
    return ct


@contextmanager
def quiet() -> Iterator[None]:
    """Swallow what Python code prints; its progress bars have no switch.

    One thread at a time: the streams are the process's, and so is the builder in which coremltools reads a program.
    """
    with _ALONE, redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
        yield
