"""The verdict: what is chosen for each aim, what is not fit, and the sentences that say so."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.artifact import ArtifactRow
from edgekit.measure.drift import DriftReport, measure_drift
from edgekit.measure.features import Features
from edgekit.measure.latency import LatencyReport, Speedup
from edgekit.measure.noise import Noise
from edgekit.report.verdict import Aim, judge

# name, ms, MB, noise beside features of deviation 1
MEASURED = {
    "onnx/fp32": (100.0, 86.0, 0.0),
    "onnx/fp16": (95.0, 43.0, 0.0001),
    "onnx/w8a8": (40.0, 23.0, 0.03),
    "onnx/w8a8_fused": (30.0, 24.0, 0.04),
    "openvino/w8a8_nncf": (20.0, 22.0, 0.2),
}
INTEGER = {"tflite/w8a16": (1.0, 1.0, 0.00001)}  # better than all in every way


def drift(noise: float) -> DriftReport:
    generator = np.random.default_rng(0)
    tokens = generator.standard_normal((24, 5, 64)).astype(np.float32)
    moved = tokens + noise * generator.standard_normal(tokens.shape).astype(np.float32)
    names = tuple(map(str, range(24)))
    return measure_drift(Features(tokens, (2, 2), names), Features(moved, (2, 2), names))


def latency(name: str, ms: float) -> LatencyReport:
    speedup = Speedup(reference="onnx/fp32", value=100 / ms, low=97 / ms, high=103 / ms)
    return LatencyReport(
        name=name,
        batch=1,
        image_size=(224, 224),
        threads=1,
        rounds=3,
        times_ms=((ms,),) * 3,
        p50_ms=ms,
        p90_ms=ms,
        p99_ms=None,
        min_ms=ms,
        mean_ms=ms,
        load_ms=1,
        first_ms=1,
        throughput_ips=1,
        peak_rss_mb=1,
        base_rss_mb=1,
        energy_mj=None,
        noise=Noise.of([[ms]] * 3, 0.0),
        speedup=speedup,
    )


def verdict(aim: Aim, *names: str):
    rows, drifts, latencies = [], {}, {}
    for name in names or MEASURED:
        ms, size, noise = (MEASURED | INTEGER)[name]
        format_, _, precision = name.partition("/")
        rows.append(
            ArtifactRow(name=name, format=format_, precision=precision.split("_")[0], status="ok", size_mb=size)
        )
        latencies[name] = latency(name, ms)
        if noise:
            drifts[name] = drift(noise)
    return judge(rows, drifts, latencies, reference="onnx/fp32", aim=aim)


@pytest.mark.parametrize(
    ("aim", "choice"),
    [
        (Aim(), "onnx/w8a8_fused"),  # the faster NNCF file is no "good" one
        (Aim(max_drop=0.05), "openvino/w8a8_nncf"),
        (Aim(max_drop=0.0006), "onnx/w8a8"),
        (Aim(goal="size"), "onnx/w8a8"),
        (Aim(goal="accuracy"), "onnx/w8a8"),  # fp16 is truer, but not faster beyond doubt
        (Aim(goal="accuracy", max_drop=1e-6), "onnx/fp32"),
    ],
)
def test_the_choice(aim, choice):
    found = verdict(aim)
    assert found.choice == choice
    assert choice in found.sentence
    assert found.recorded().artifact == choice
    assert (found.recorded().goal, found.recorded().max_drop) == (aim.goal, aim.max_drop)


def test_nothing_fits():
    found = verdict(Aim(max_drop=0.0001), "onnx/w8a8", "openvino/w8a8_nncf")
    assert found.choice is None
    assert "onnx/w8a8, the truest, drops 0.0004" in found.sentence


def test_int8_that_gains_too_little_is_not_worth_it():
    slow = {**MEASURED, "onnx/w8a8": (98.0, 23.0, 0.03)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MEASURED, "onnx/w8a8", slow["onnx/w8a8"])
        found = verdict(Aim(), "onnx/fp32", "onnx/w8a8")
    assert found.int8 == "not worth it"


@pytest.mark.parametrize("goal", ["latency", "size", "accuracy"])
def test_what_is_made_for_other_devices_is_never_recommended(goal):
    found = verdict(Aim(goal=goal), *MEASURED, *INTEGER)
    assert found == verdict(Aim(goal=goal))
    assert "tflite/w8a16" not in found.front
    assert verdict(Aim(goal=goal), "tflite/w8a16").choice is None
