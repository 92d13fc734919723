"""ONNX files in turns inside one process: what fused files gain, with less noise than a process for each has.

    python -m benchmarks.one_process build/benchmarks/demo-full-224-older --older-cpu
    python -m benchmarks.one_process FOLDER [FOLDER ...] [--threads 1,2] [--rounds 25] [--csv FILE]

The folders are those that `run.py --prepare` leaves; the files of `run.py --older-cpu`'s other forms are found beside
them. A round runs every file three times and times the last two; a speedup is the median, over the rounds, of the
reference's time over the file's, with the quartiles of that.
"""

from __future__ import annotations

import argparse
import time
from datetime import date
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.support import older_cpu
from benchmarks.support.candidates import FUSED_FORMS
from benchmarks.support.rows import keep_row
from edgekit.backends.onnx.runner import register_ops
from edgekit.host import describe_host

RESULTS = Path(__file__).parent / "results" / "one_process.csv"
KEY = ("cpu", "folder", "threads", "file")
TIMED = 2


def files_of(folder: Path) -> dict[str, Path]:
    """The reference first, then what is fused, then the other tools' files."""
    files = {"fp32": folder / "onnx" / "model.onnx"}
    files |= {f"{name}_fused": folder / "onnx" / f"model_{name}_fused.onnx" for name in ("fp32", "w8a8", "w8a16")}
    for form in FUSED_FORMS:
        files[f"w8a8_fused_{form}"] = folder.with_name(f"{folder.name}-{form}") / "onnx" / "model_w8a8_fused.onnx"
    files |= {path.stem.removeprefix("onnx_"): path for path in sorted((folder / "peers").glob("onnx_*.onnx"))}
    return {name: path for name, path in files.items() if path.exists()}


def session_of(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """Its threads sleep between runs: those of the others run then."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    register_ops(options)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def times_of(files: dict[str, Path], threads: int, rounds: int) -> dict[str, np.ndarray]:
    """Milliseconds (rounds, TIMED) of every file, on pixels of its own size."""
    sessions = {name: session_of(path, threads) for name, path in files.items()}
    feeds = {name: _pixels(session) for name, session in sessions.items()}
    times = {name: np.empty((rounds, TIMED)) for name in files}
    for turn in range(rounds):
        for name, session in sessions.items():
            session.run(None, feeds[name])
            for i in range(TIMED):
                start = time.perf_counter()
                session.run(None, feeds[name])
                times[name][turn, i] = (time.perf_counter() - start) * 1e3
    return times


def _pixels(session: onnxruntime.InferenceSession) -> dict[str, np.ndarray]:
    given = session.get_inputs()[0]
    return {given.name: np.random.default_rng(0).standard_normal((1, *given.shape[1:]), np.float32)}


def main() -> None:
    """All folders, on each number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--threads", default="1,2", help="numbers of threads, with commas")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--csv", type=Path, default=RESULTS)
    parser.add_argument("--older-cpu", action="store_true", help="hide AVX-512 from ONNX Runtime, as run.py does")
    arguments = parser.parse_args()
    if arguments.older_cpu:
        older_cpu.begin_again(Path("build/older_cpu"))
    cpu = describe_host().cpu
    for folder in arguments.folders:
        for threads in map(int, arguments.threads.split(",")):
            times = times_of(files_of(folder), threads, arguments.rounds)
            for name, each in times.items():
                low, middle, high = np.percentile(times["fp32"] / each, (25, 50, 75))
                row = {
                    "cpu": cpu,
                    "folder": folder.name,
                    "threads": threads,
                    "file": name,
                    "median_ms": f"{np.median(each):.1f}",
                    "min_ms": f"{each.min():.1f}",
                    "speedup": f"{middle:.2f}",
                    "quartiles": f"{low:.2f} to {high:.2f}",
                    "n": each.size,
                    "onnxruntime": onnxruntime.__version__,
                    "date": date.today(),
                }
                print(
                    *(row[key] for key in ("folder", "threads", "file", "median_ms", "speedup", "quartiles")), sep="  "
                )
                keep_row(row, arguments.csv, KEY)


if __name__ == "__main__":
    main()
