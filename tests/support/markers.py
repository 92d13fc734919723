"""Markers of tests by what they need: one format, the native library, or more time. Told by folder and name."""

from __future__ import annotations

import re

FORMATS = ("onnx", "openvino", "coreml", "tflite")
SLOW = (
    "tests/e2e/",
    "tests/unit/shards/test_shards_ray.py",
    *(f"tests/unit/distill/test_distill_{part}.py" for part in ("run", "resume", "refusals")),
)


def markers_of(name: str) -> set[str]:
    """Markers of a test by its id, "tests/unit/backends/test_onnx.py::test_a_file[onnx-w8a8]".

    A format marks what its files or parameters name: `-m tflite` runs the tests of TFLite, those of the conformance
    suite included.
    """
    path = name.partition("::")[0]
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    found = {each for each in FORMATS if each in words}
    if "mil" in words:
        found.add("coreml")
    if "tests/unit/native/" in path or "fused" in words:
        found.add("native")
    if name.startswith(SLOW):
        found.add("slow")
    return found
