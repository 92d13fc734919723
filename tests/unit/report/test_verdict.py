"""The verdict: what is chosen for each aim, what is not fit, and the sentences that say so."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.manifest import ArtifactRow, TimingRun
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
WIDE = {"onnx/w8a16_fused": (45.0, 23.5, 0.01)}  # 16-bit activations


def drift(noise: float) -> DriftReport:
    generator = np.random.default_rng(0)
    tokens = generator.standard_normal((24, 5, 64)).astype(np.float32)
    moved = tokens + noise * generator.standard_normal(tokens.shape).astype(np.float32)
    names = tuple(map(str, range(24)))
    return measure_drift(Features(tokens, (2, 2), names), Features(moved, (2, 2), names))


RUN = TimingRun(id="r1", date="2026-11-29T14:03:00Z", threads=1, batch=1, image_size=(224, 224), busy=0.0, host={})


def latency(name: str, ms: float, *, doubt: float = 0.03, load: float = 0.0, run: TimingRun = RUN) -> LatencyReport:
    """`doubt` is how far each round may be from `ms`, as a share of it."""
    speedup = Speedup(reference="onnx/fp32", value=100 / ms, low=100 * (1 - doubt) / ms, high=100 * (1 + doubt) / ms)
    steps = {"onnx/fp32": (0, 0, 0), "onnx/w8a8": (1, 0, -1)}.get(name, (0, -1, 1))
    times = tuple((ms * (1 + doubt * step),) for step in steps)
    return LatencyReport(
        name=name,
        batch=1,
        image_size=(224, 224),
        threads=1,
        rounds=3,
        times_ms=times,
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
        noise=Noise.of(times, load),
        speedup=speedup,
        run=run,
    )


def verdict(aim: Aim, *names: str, among=None, **values: object):
    rows, drifts, latencies = [], {}, {}
    for name in names or MEASURED:
        ms, size, noise = (MEASURED | INTEGER | WIDE)[name]
        format_, _, precision = name.partition("/")
        rows.append(
            ArtifactRow(name=name, format=format_, precision=precision.split("_")[0], status="ok", size_mb=size)
        )
        latencies[name] = latency(name, ms, **values)
        if noise:
            drifts[name] = drift(noise)
    return judge(rows, drifts, latencies, reference="onnx/fp32", aim=aim, among=among)


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


def test_a_quiet_host_leaves_no_doubt_and_a_busy_one_is_in_the_sentence():
    quiet, busy = verdict(Aim()), verdict(Aim(), load=0.6)
    assert quiet.doubt == ""
    assert "doubt" not in quiet.sentence
    assert "the host was busy, other work took 60%" in busy.sentence
    assert busy.sentence.endswith(busy.doubt)
    assert busy.recorded().sentence == busy.sentence
    assert busy.choice == quiet.choice


def test_unsteady_rows_are_in_the_sentence():
    found = verdict(Aim(), doubt=0.2)
    assert "In doubt: 4 of 5 timings were unsteady." in found.sentence


@pytest.mark.parametrize(
    ("doubt", "words"), [(0.001, "3.33× faster"), (0.03, "3.3× faster"), (0.12, "3× faster"), (0.6, "1.3× to 5.3×")]
)
def test_the_factor_has_the_digits_of_its_interval(doubt, words):
    assert words in verdict(Aim(), doubt=doubt).sentence


def test_a_speedup_that_may_be_none_is_none():
    found = verdict(Aim(max_drop=1e-5), "onnx/fp32", "onnx/fp16", doubt=0.2)
    assert found.choice == "onnx/fp16"
    assert "about as fast as FP32" in found.sentence


def test_int8_whose_gain_is_within_the_doubt_is_neither_worth_it_nor_not():
    found = verdict(Aim(), "onnx/fp32", "onnx/w8a8", doubt=0.8)
    assert found.int8 == "in doubt"
    assert "in doubt" in found.int8_sentence


def test_a_rival_that_is_as_fast_is_named():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MEASURED, "onnx/w8a8", (30.3, 23.0, 0.03))
        found = verdict(Aim(), "onnx/fp32", "onnx/w8a8", "onnx/w8a8_fused", doubt=0.05)
    assert "Within the measurement's doubt onnx/w8a8 is as fast." in found.doubt
    assert found.choice == "onnx/w8a8_fused"


def test_latencies_of_another_run_are_not_compared():
    rows = [ArtifactRow(name=f"onnx/{p}", format="onnx", precision=p, status="ok", size_mb=9) for p in ("fp32", "w8a8")]
    other = RUN.model_copy(update={"id": "r2"})
    timings = {"onnx/fp32": latency("onnx/fp32", 100.0), "onnx/w8a8": latency("onnx/w8a8", 1.0, run=other)}
    found = judge(rows, {"onnx/w8a8": drift(0.03)}, timings, reference="onnx/fp32")
    assert (found.choice, found.run, found.int8) == ("onnx/fp32", "r1", None)


def test_the_choice_may_be_restricted_to_what_is_there():
    assert verdict(Aim(), among={"onnx/w8a8", "onnx/fp32"}).choice == "onnx/w8a8"
    assert verdict(Aim(), among={"tflite/w8a8"}).choice is None


def test_what_a_search_loses_is_told_for_both_galleries_with_near_ties():
    noisy = judge(
        [ArtifactRow(name="onnx/w8a8", format="onnx", precision="w8a8", status="ok", size_mb=9)],
        {"onnx/w8a8": drift(0.5)},
        {"onnx/w8a8": latency("onnx/w8a8", 30.0)},
        reference="onnx/fp32",
        aim=Aim(max_drop=1),
    )
    assert "in an FP32 gallery" in noisy.retrieval
    assert "in one embedded again by onnx/w8a8" in noisy.retrieval
    assert "near ties" in noisy.retrieval
    assert verdict(Aim(), "onnx/fp32").retrieval == ""


def test_16_bit_activations_are_named_beside_a_choice_of_8_bit_ones():
    names = [*MEASURED, *WIDE]
    fast = verdict(Aim(), *names)
    assert fast.choice == "onnx/w8a8_fused"
    assert "onnx/w8a16_fused keeps more, a cosine of 0.999" in fast.sentence
    assert "in 45.0 ms instead of 30.0." in fast.sentence
    assert verdict(Aim(goal="accuracy"), *names).choice == "onnx/w8a16_fused"
    alone = verdict(Aim(), "onnx/fp32", *WIDE)
    assert alone.int8 == "worth it"
    assert "onnx/w8a16_fused (8-bit weights, 16-bit activations) is 2.2" in alone.int8_sentence
