"""Standard output of the command line: what it cannot take never stops the work."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


class _Patient:
    """A stream that drops what cannot be written, and keeps the reason: a build does not end for a closed pipe."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write as far as it goes."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush as far as it goes."""
        self._try(self._stream.flush)

    def _try(self, do: Any) -> None:
        if self.error is not None:
            return
        try:
            do()
        except OSError as error:
            self.error = error


@contextmanager
def patient_streams() -> Iterator[list[str]]:
    """While the block runs, printing neither fails nor stops anything.

    Characters that a stream's encoding lacks are written as \\xd7. Yields a list that holds, when the block has ended,
    why standard output could not be written; a reader that has left (`edgekit ... | head`) is no reason.
    """
    before, problems = (sys.stdout, sys.stderr), list[str]()
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    patient = tuple(None if stream is None else _Patient(stream) for stream in before)
    sys.stdout, sys.stderr = patient  # type: ignore[assignment]
    try:
        yield problems
    finally:
        for stream in patient:
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before
        for stream, original in zip(patient, before, strict=True):
            if stream is not None and stream.error is not None:
                _silence(original)
                if original is before[0] and stream.error.errno not in (errno.EPIPE, errno.EBADF):
                    problems.append(stream.error.strerror or str(stream.error))


def _silence(stream: TextIO) -> None:
    """Send what is still in a stream's buffer nowhere: Python would try once more at its end, and complain."""
    if stream in (sys.__stdout__, sys.__stderr__):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
