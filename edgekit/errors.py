"""The exceptions of edgekit: each says what happened (with the value), why, and the command that mends it."""

from __future__ import annotations

from typing import ClassVar


class EdgekitError(Exception):
    """Root of all errors that edgekit raises on purpose; the CLI prints it and exits with `exit_code`."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, why: str = "", fix: str = "") -> None:
        """Keep the three parts apart so that the CLI can show them as such.

        Args:
            what: what went wrong, with the offending value.
            why: the reason, when it is not in `what`.
            fix: the next command or edit that mends it.
        """
        self.what, self.why, self.fix = what, why, fix
        super().__init__(" ".join(part for part in (what, why and f"({why})", fix and f"-> {fix}") if part))


class RecipeError(EdgekitError):
    """A request that cannot be right: unknown model, impossible size, unknown key, contradicting options."""

    exit_code = 2


class BackendMissing(EdgekitError):
    """A runtime or converter that is not installed, or cannot run on this machine."""


class ExportError(EdgekitError):
    """A conversion or quantization step that failed, or whose result is not equal to its source."""


class DataError(EdgekitError):
    """A checkpoint, image, manifest or download that is damaged, missing or not what it claims to be."""


class DriftExceeded(EdgekitError):
    """A gate that did not hold: drift or latency over the limit the caller set."""

    exit_code = 3
