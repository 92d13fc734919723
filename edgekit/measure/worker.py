"""A process that holds one loaded model and times it when asked, so that its memory and its threads are its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any, Protocol, Self

from typing_extensions import override

from edgekit.artifact import Artifact, Frozen
from edgekit.errors import BackendMissing

ARTIFACT_LOADER = "edgekit.measure.isolated:load_artifact"


class Target(Frozen):
    """The model that a worker loads: `loader` is "module:function", which returns a runner of (argument, threads)."""

    loader: str
    argument: dict[str, Any]
    name: str

    @classmethod
    def of(cls, artifact: Artifact) -> Target:
        """An artifact, opened by its own backend."""
        return cls(loader=ARTIFACT_LOADER, argument=artifact.model_dump(mode="json"), name=artifact.name)


class Start(Frozen):
    """Costs of becoming ready: memory in MB (10^6 bytes), times in ms."""

    load_ms: float
    first_ms: float
    base_rss_mb: float  # of the interpreter before anything was loaded


class Timed(Protocol):
    """A model that can be timed, in another process or (in tests) in this one."""

    def run(self, iterations: int, untimed: int = 0) -> list[float]:
        """Milliseconds of each of `iterations` inferences, after `untimed` others."""
        ...


class Worker(Timed):
    """A child process speaking one JSON object per line. Use as a context manager; it never outlives its owner."""

    def __init__(self, target: Target, pixels: Path, threads: int | None) -> None:
        """Start the process; `pixels` is an .npy file of one batch (B, 3, H, W).

        Raises:
            BackendMissing: the model cannot be loaded or run here; `what` says why in the child's own words.
        """
        self.target = target
        self._errors = TemporaryFile("w+b")  # noqa: SIM115 - closed with the worker
        environment = dict(os.environ)
        if threads is not None:
            environment["OMP_NUM_THREADS"] = str(threads)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "edgekit.measure.isolated"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            text=True,
        )
        try:
            order = {"loader": target.loader, "argument": target.argument, "pixels": str(pixels), "threads": threads}
            self.start = Start.model_validate(self._ask(order))
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    @override
    def run(self, iterations: int, untimed: int = 0) -> list[float]:
        times: list[float] = self._ask({"run": iterations, "untimed": untimed})["times_ms"]
        return times

    def peak_rss_mb(self) -> float:
        """Highest resident memory of the process so far, in MB, runtime and interpreter included."""
        return float(self._ask({"memory": True})["peak_rss_mb"])

    def close(self) -> None:
        """End the process."""
        if self._process.stdin and not self._process.stdin.closed:
            with suppress(BrokenPipeError):
                self._process.stdin.close()  # end of input is its order to leave
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            raise BackendMissing(f"{self.target.name} does not run here", why=self._last_words(code))
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BackendMissing(f"{self.target.name} does not run here", why=answer["error"])
        return answer

    def _last_words(self, code: int) -> str:
        self._errors.seek(0)
        lines = deque((line.decode(errors="replace").strip() for line in self._errors), maxlen=1)
        how = f"its process was ended by signal {-code}" if code < 0 else f"its process ended with code {code}"
        return f"{how}: {lines[0]}" if lines and lines[0] else how
