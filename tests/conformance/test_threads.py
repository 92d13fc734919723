"""One loaded model called from many threads: each caller gets its own answer, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import edgekit
from edgekit.backends.base import Runner
from tests.conformance.conftest import Exported, random_pixels

CALLERS, ROUNDS = 16, 3


def test_each_of_sixteen_callers_gets_its_own_answer(tiny: Exported) -> None:
    """Batches of one and of two images, so that a runner that resizes its input does so under way."""
    if reason := tiny.backend.runner_missing():
        pytest.skip(reason)
    inputs = [random_pixels(1 + caller % 2, seed=caller).numpy() for caller in range(CALLERS)]
    for kind in tiny.kinds():
        runner = tiny.backend.runner(tiny.export(*kind), threads=1)
        alone = [runner(pixels) for pixels in inputs]
        for expected, found in zip(alone, called_at_once(runner, inputs), strict=True):
            for answer in found:
                assert all(np.array_equal(answer[name], expected[name]) for name in expected), kind


def called_at_once(runner: Runner, inputs: list[np.ndarray]) -> list[list[dict[str, np.ndarray]]]:
    """What each caller, one for each input, was answered in all rounds."""
    start = threading.Barrier(len(inputs))

    def call(pixels: np.ndarray) -> list[dict[str, np.ndarray]]:
        start.wait()
        return [runner(pixels) for _ in range(ROUNDS)]

    with ThreadPoolExecutor(len(inputs)) as pool:
        return list(pool.map(call, inputs))


def test_a_model_is_loaded_while_another_runs(tiny: Exported) -> None:
    if reason := tiny.backend.runner_missing():
        pytest.skip(reason)
    artifact, pixels = tiny.export("fp32", "standard"), random_pixels(1).numpy()
    runner = tiny.backend.runner(artifact, threads=1)
    expected = runner(pixels)["pooler_output"]

    def load_and_call(_: int) -> np.ndarray:
        return edgekit.load(artifact.path, threads=1)(pixels)["pooler_output"]

    with ThreadPoolExecutor(CALLERS) as pool:
        loaded = pool.map(load_and_call, range(CALLERS))
        running = [runner(pixels)["pooler_output"] for _ in range(CALLERS)]
        assert all(np.array_equal(found, expected) for found in (*loaded, *running))


def test_standard_error_survives_models_that_are_loaded_at_once(tiny: Exported) -> None:
    """In a process of its own: a runtime's greeting is held back by taking file descriptor 2 away for a moment."""
    if reason := tiny.backend.runner_missing():
        pytest.skip(reason)
    path = tiny.export("fp32", "standard").path
    code = (
        "import os, sys, edgekit; from concurrent.futures import ThreadPoolExecutor as Pool\n"
        "with Pool(8) as pool: list(pool.map(lambda _: edgekit.load(sys.argv[1], threads=1), range(12)))\n"
        "os.write(2, b'still here')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=True, env=os.environ)
    assert done.stderr.endswith(b"still here")
