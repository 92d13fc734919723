"""Modelled speed of the Arm kernels' inner loops: cycles by llvm-mca against the limit of their dot instructions.

    python -m benchmarks.arm_model [--csv benchmarks/results/arm_model.csv]
    python -m benchmarks.arm_model --assembly OTHER.S     # the loops of another library, for comparison

Nothing is run: the units of native/src are compiled to assembly for AArch64, the innermost loops with the most dot
instructions are cut out, and LLVM's scheduling models of a small core (Cortex-A55 or A510, in order) and of a big one
(Neoverse N2, out of order) say how many cycles a turn takes. `limit` is what the same dot instructions alone take;
`share` is limit over cycles. A model knows ports and latencies; it knows no caches.

Needs aarch64-linux-gnu-g++ and llvm-mca of LLVM 19 or later (Debian: g++-aarch64-linux-gnu llvm-19): LLVM 14 has sdot
on a Cortex-A55 twice as fast as Arm's optimization guide does.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.support.rows import write_csv
from edgekit.native import build

CORES = {  # of each unit: a small one that has its instructions, and a big one
    "isa_neon_dotprod": {"small": "cortex-a55", "big": "neoverse-n2"},
    "isa_neon_i8mm": {"small": "cortex-a510", "big": "neoverse-n2"},
}
COMPILER = "aarch64-linux-gnu-g++"
OLDEST_LLVM = 19
LEAST_DOTS = 8  # in a loop that counts as one of a kernel
TURNS = 200
_DOTS = {
    "sdot": 4,
    "usdot": 4,
    "sudot": 4,
    "udot": 4,
    "smmla": 8,
    "usmmla": 8,
    "smlal": 1,
    "smlal2": 1,
    "fmla": 1,
}  # MACs per lane
_LABEL = re.compile(r"^\s*(\.?\w+):")
_BRANCH = re.compile(r"^\s+(?:b\.?\w*|cbn?z|tbn?z)\s(?:.*[ ,])?(\.?\w+)\s*$")
_COMMENT = re.compile(r"\s*//.*$|^\s*#.*$")
_NUMBER = re.compile(r"^(\d+)(?=:)|(?<=\s)(\d+)[bf]$")  # a label of digits, and a branch to it
_FUNCTION = re.compile(r"^(_z\w+|[a-z]\w+):")


@dataclass(frozen=True)
class Loop:
    """An innermost loop: `lines` of assembly without labels, of `function`."""

    function: str
    lines: tuple[str, ...]

    @property
    def dots(self) -> tuple[str, ...]:
        """The lines that multiply and add."""
        return tuple(line for line in self.lines if line.split()[0] in _DOTS)

    @property
    def instruction(self) -> str:
        """The commonest dot instruction."""
        names = Counter(line.split()[0].removesuffix("2") for line in self.dots)
        return names.most_common(1)[0][0]


def _named(line: str) -> str:
    """The line with labels of digits, which hand-written kernels have, as names."""
    return _NUMBER.sub(lambda found: f".l{found[1] or found[2]}", line)


def loops(assembly: str) -> Iterator[Loop]:
    """The innermost loops with at least `LEAST_DOTS` dot instructions, each once."""
    function, seen = "", set()
    lines = [_named(_COMMENT.sub("", line).rstrip().lower()) for line in assembly.splitlines()]
    labels: dict[str, int] = {}
    for place, line in enumerate(lines):
        if named := _FUNCTION.match(line):
            function = named[1]
        if label := _LABEL.match(line):
            labels[label[1]] = place
        start = labels.get(found[1]) if (found := _BRANCH.match(line)) else None
        if start is None:
            continue
        inside = lines[start + 1 : place + 1]
        if any(_LABEL.match(each) for each in inside):
            continue
        body = tuple(each.strip() for each in inside if each.strip() and not each.strip().startswith("."))
        loop = Loop(function, body)
        if len(loop.dots) >= LEAST_DOTS and body not in seen:
            seen.add(body)
            yield loop


@cache
def model() -> str | None:
    """The newest llvm-mca that is new enough, None without one."""
    names = (f"llvm-mca-{version}" for version in range(OLDEST_LLVM + 20, OLDEST_LLVM - 1, -1))
    return next((name for name in names if shutil.which(name)), None)


def cycles(lines: tuple[str, ...], core: str) -> float:
    """Cycles of one turn of a loop of these instructions, by the scheduling model of `core`, over `TURNS` turns."""
    plain = "\n".join(line for line in lines if not _BRANCH.match(f"\t{line}"))  # a predicted branch costs no port here
    done = subprocess.run(
        [model() or "", "-mtriple=aarch64", f"-mcpu={core}", "-mattr=+dotprod,+i8mm", f"-iterations={TURNS}", "-json"],
        input=plain,
        capture_output=True,
        text=True,
        check=True,
    )
    summary = json.loads(done.stdout)["CodeRegions"][0]["SummaryView"]
    return float(summary["TotalCycles"]) / TURNS


def rows_of(unit: str, assembly: str) -> list[dict[str, object]]:
    """The loops of a unit on both cores: those with the most dot instructions of each kind."""
    best: dict[str, Loop] = {}
    for loop in loops(assembly):
        if len(loop.dots) > len(best[loop.instruction].dots if loop.instruction in best else ()):
            best[loop.instruction] = loop
    rows: list[dict[str, object]] = []
    for instruction, loop in sorted(best.items()):
        for size, core in CORES.get(unit, CORES["isa_neon_dotprod"]).items():
            whole, limit = cycles(loop.lines, core), cycles(loop.dots, core)
            rows.append(
                {
                    "unit": unit,
                    "dot": instruction,
                    "dots": len(loop.dots),
                    "instructions": len(loop.lines),
                    "core": f"{core} ({size})",
                    "cycles": round(whole, 1),
                    "limit": round(limit, 1),
                    "share": round(limit / whole, 2),
                }
            )
    return rows


def assembly_of(unit: str, folder: Path) -> str:
    """The assembly of a unit, with the flags that the library is built with."""
    isa = next(each for each in build.isas("aarch64") if each.unit == unit)
    out = folder / f"{unit}.s"
    source = build.NATIVE / "src" / f"{unit}.cpp"
    include = f"-I{build.NATIVE / 'include'}"
    subprocess.run([COMPILER, *build.FLAGS, *isa.flags, include, "-S", str(source), "-o", str(out)], check=True)
    return out.read_text(encoding="utf-8")


def main() -> None:
    """Both NEON units, or the file of another library."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, help="also write the rows there")
    parser.add_argument("--assembly", type=Path, help="another library's kernel as AArch64 assembly")
    options = parser.parse_args()
    if not shutil.which(COMPILER) or not model():
        sys.exit(f"{COMPILER} or llvm-mca-{OLDEST_LLVM} not found; Debian: apt install g++-aarch64-linux-gnu llvm-19")
    if options.assembly:
        rows = rows_of(options.assembly.stem, options.assembly.read_text(encoding="utf-8"))
    else:
        with tempfile.TemporaryDirectory() as folder:
            rows = [row for unit in CORES for row in rows_of(unit, assembly_of(unit, Path(folder)))]
    for row in rows:
        print(*(f"{value}" for value in row.values()), sep="\t")
    write_csv(rows, options.csv)


if __name__ == "__main__":
    main()
