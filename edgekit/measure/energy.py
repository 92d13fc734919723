"""The processor package's energy counter (RAPL), where the system lets us read it; estimated nowhere."""

from __future__ import annotations

from pathlib import Path

_POWERCAP = Path("/sys/class/powercap")


class EnergyCounter:
    """Sum of the packages' counters in joules. `readable` is False on most laptops (root only), VMs and ARM boards."""

    def __init__(self, root: Path = _POWERCAP) -> None:
        self._zones = [zone for zone in sorted(root.glob("intel-rapl:*")) if zone.name.count(":") == 1]
        try:
            self._wraps = [int((zone / "max_energy_range_uj").read_text()) for zone in self._zones]
            self._micros()
        except (OSError, ValueError):
            self._zones = []

    @property
    def readable(self) -> bool:
        """Whether there is a counter at all."""
        return bool(self._zones)

    def read(self) -> list[int]:
        """Counter values in microjoules, to be given to `since`."""
        return self._micros() if self._zones else []

    def since(self, before: list[int]) -> float:
        """Joules used since `before`; a counter that wrapped around once is put right. 0 when not readable."""
        after = self.read()
        gone = (b - a if b >= a else b - a + wrap for a, b, wrap in zip(before, after, self._wraps_of(), strict=True))
        return sum(gone) / 1e6

    def _micros(self) -> list[int]:
        return [int((zone / "energy_uj").read_text()) for zone in self._zones]

    def _wraps_of(self) -> list[int]:
        return self._wraps if self._zones else []
