"""Programs over the native library, compiled for other CPUs and with sanitizers."""

from __future__ import annotations

import subprocess
from pathlib import Path

from edgekit.native import build

HOST = Path(__file__).parent / "ops_host.cpp"
RUN = build.NATIVE / "run" / "edgekit_run.cpp"


def compiled(
    folder: Path,
    compiler: str,
    machine: str,
    *flags: str,
    special: dict[str, tuple[str, ...]] | None = None,
    isas: tuple[str, ...] = (),
    program: Path = HOST,
) -> Path:
    """A program with libedgekit linked into it, that of the ops by default.

    `special` are flags of units in place of the table's; `isas` are all the instruction sets there are, best first,
    where they are not those of the table.
    """
    units = build.units(machine)
    special = build.unit_flags(machine) | (special or {})
    if isas:
        units = [path for path in units if not path.stem.startswith("isa_") or path.stem.removeprefix("isa_") in isas]
        special["dispatch"] = ("-DEDGEKIT_UNITS=" + "".join(f"UNIT({isa})" for isa in isas),)
    common = [compiler, *build.FLAGS, *flags, *build.INCLUDES]
    objects = []
    for source in [program, *(path for path in units if path.parent.name in ("src", "model"))]:
        objects.append(str(folder / f"{source.stem}.o"))
        subprocess.run([*common, *special.get(source.stem, ()), "-c", str(source), "-o", objects[-1]], check=True)
    subprocess.run([compiler, *flags, *objects, "-pthread", "-o", str(folder / "host")], check=True)
    return folder / "host"
