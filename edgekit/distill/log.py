"""The log of a run: CSV tables that a resumed run continues without a seam, and TensorBoard's event files."""

from __future__ import annotations

import csv
import io
import shutil
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from edgekit.errors import BackendMissing
from edgekit.files import atomic_path

Board = Literal["auto", "on", "off"]
Table = Literal["log", "validation"]
BOARD_FIX = "pip install 'edgekit[distill]'"


def board_missing() -> bool:
    """Whether TensorBoard's event files cannot be written here."""
    return find_spec("tensorboard") is None


class Log:
    """Writes `log.csv`, `validation.csv` and `tensorboard/` in a folder; numbers alone, no times, so that the same run
    gives the same bytes.
    """

    def __init__(self, folder: Path, done: int, board: Board) -> None:
        """Continue after `done` steps; what an earlier process wrote beyond them is dropped.

        Raises:
            BackendMissing: `board` is "on" and tensorboard is not installed.
        """
        if board == "on" and board_missing():
            raise BackendMissing("TensorBoard's event files need tensorboard", fix=BOARD_FIX)
        self._folder = folder
        self._open: dict[Table, io.TextIOWrapper] = {}
        for table in ("log", "validation"):
            _cut(folder / f"{table}.csv", done)
        self._board: Any = None
        if board != "off" and not board_missing():
            from torch.utils.tensorboard import SummaryWriter

            place = folder / "tensorboard"
            if not done:
                shutil.rmtree(place, ignore_errors=True)
            _wait_for_a_later_name(place)
            self._board = SummaryWriter(str(place), purge_step=done + 1 if done else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in self._open.values():
            stream.close()
        if self._board is not None:
            self._board.close()

    def row(self, table: Table, values: Mapping[str, str | int | float]) -> None:
        """One line, on disk when this returns; its numbers are scalars of TensorBoard under its words."""
        path = self._folder / f"{table}.csv"
        if table not in self._open:
            fresh = not path.exists()
            self._open[table] = path.open("a", newline="", encoding="utf-8")
            if fresh:
                csv.writer(self._open[table], lineterminator="\n").writerow(values)
        csv.writer(self._open[table], lineterminator="\n").writerow(values.values())
        self._open[table].flush()
        if self._board is not None:
            words = "/".join(value.replace(" ", "_") for value in values.values() if value and isinstance(value, str))
            for name, value in values.items():
                if name != "step" and not isinstance(value, str):
                    self._board.add_scalar("/".join(filter(None, (table, words, name))), value, values["step"])
            self._board.flush()


def _wait_for_a_later_name(place: Path) -> None:
    """TensorBoard reads event files in the order of their names, which begin with the second they were opened in."""
    opened = max((int(path.name.split(".")[3]) for path in place.glob("events.out.tfevents.*")), default=0)
    if opened >= int(time.time()):
        time.sleep(1)


def _cut(path: Path, done: int) -> None:
    """Drop the rows of steps after `done`; the whole file when none is done."""
    if not path.exists():
        return
    if not done:
        path.unlink()
        return
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.reader(file))
    if not lines:  # killed before its first row
        path.unlink()
        return
    header, *rows = lines
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        # a line that a kill cut off is of a step that the checkpoint does not have
        kept = [row for row in rows if len(row) == len(header) and int(row[0]) <= done]
        csv.writer(file, lineterminator="\n").writerows([header, *kept])
