"""What a build tells whoever watches it: the stage it is in, how far it got, and each row as it is finished."""

from __future__ import annotations

from typing import Literal, Protocol

from edgekit.artifact import ArtifactRow

Fate = Literal["made", "kept"]


class Watcher(Protocol):
    """Receives the progress of a build; the CLI draws it, a library call may ignore it."""

    def stage(self, name: str, done: int = 0, total: int = 0) -> None:
        """`done` of `total` steps of a stage are behind us; total 0 means that nobody knows how many there are."""
        ...

    def finished(self, row: ArtifactRow, fate: Fate) -> None:
        """A row is complete, newly made or kept from an earlier run."""
        ...

    def note(self, text: str) -> None:
        """One line that a person should read."""
        ...


class Silent:
    """A Watcher that ignores everything."""

    def stage(self, name: str, done: int = 0, total: int = 0) -> None:
        """Nothing."""

    def finished(self, row: ArtifactRow, fate: Fate) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""
