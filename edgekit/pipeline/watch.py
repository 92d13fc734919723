"""The progress of a build: that of any call, and each row of the manifest as it is finished."""

from __future__ import annotations

from typing import Literal, Protocol

from typing_extensions import override

from edgekit import progress
from edgekit.manifest import ArtifactRow

Fate = Literal["made", "kept"]


class Watcher(progress.Reporter, Protocol):
    """A Reporter that is also told of rows."""

    def finished(self, row: ArtifactRow, fate: Fate) -> None:
        """A row is complete, newly made or kept from an earlier run."""
        ...


class Silent(progress.Silent, Watcher):
    """A Watcher that ignores everything."""

    @override
    def finished(self, row: ArtifactRow, fate: Fate) -> None:
        pass
