"""A report of a build with many artifacts that were all compared and timed, without a build."""

from __future__ import annotations

import numpy as np

from edgekit.host import describe_host
from edgekit.manifest import ArtifactRow, Manifest, TimingRun
from edgekit.measure.drift import measure_drift
from edgekit.measure.features import Features
from edgekit.measure.latency import LatencyReport, Speedup
from edgekit.measure.noise import Noise
from edgekit.quantization.explanation import BlockDrift, LayerDrift
from edgekit.report import BuildReport, Command
from edgekit.report.verdict import judge

ROWS = {  # ms, MB, noise beside features of deviation 1: groups that are close together, as those of real builds
    "onnx/fp32": (131.0, 86.5, 0.0),
    "onnx/fp32_fused": (118.0, 86.5, 1e-6),
    "onnx/fp16": (133.0, 43.3, 0.001),
    "onnx/w8a8": (64.0, 23.4, 0.030),
    "onnx/w8a8_dynamic": (66.0, 23.2, 0.040),
    "onnx/w8a8_fused": (42.0, 23.0, 0.020),
    "onnx/w8a16_fused": (62.0, 23.0, 0.014),
    "openvino/fp32": (119.0, 86.8, 1e-6),
    "openvino/fp16": (120.0, 43.6, 0.001),
    "openvino/w8": (117.0, 23.3, 0.013),
    "openvino/w8a8": (65.0, 23.6, 0.032),
    "openvino/w8a8_fused": (43.0, 23.1, 0.019),
    "openvino/w8a8_nncf": (63.0, 22.9, 0.160),
    "tflite/fp32": (125.0, 86.6, 1e-6),
    "tflite/fp16": (126.0, 43.7, 0.001),
    "tflite/w8": (127.0, 23.4, 0.013),
    "tflite/w8a8": (67.0, 23.5, 0.026),
    "tflite/w8a8_per_token": (61.0, 23.4, 0.020),
}
_HOST = describe_host()
_RUN = TimingRun(
    id="r1",
    date="2026-11-29T14:03:00Z",
    threads=2,
    batch=1,
    image_size=(28, 28),
    busy=0.0,
    host=_HOST.model_dump(mode="json"),
)


def crowded() -> BuildReport:
    """A report of `ROWS`, and of one artifact that failed."""
    rows, drifts, latencies = [], {}, {}
    generator = np.random.default_rng(0)
    tokens = generator.standard_normal((24, 5, 32)).astype(np.float32)
    names = tuple(f"photo {i}" for i in range(24))
    for name, (ms, size, noise) in ROWS.items():
        format_, _, form = name.partition("/")
        precision, _, variant = form.partition("_")
        variant = variant if variant != "nncf" else "standard"
        values = {"variant": variant or "standard", "size_mb": size}
        rows.append(ArtifactRow(name=name, format=format_, precision=precision, status="ok", **values))
        latencies[name] = timed(name, ms)
        if noise:
            moved = tokens + noise * generator.standard_normal(tokens.shape).astype(np.float32)
            drifts[name] = measure_drift(Features(tokens, (2, 2), names), Features(moved, (2, 2), names))
    rows.append(ArtifactRow(name="coreml/w8a8", format="coreml", precision="w8a8", status="failed", reason="no room"))
    model = {"name": "tiny", "source": "a file", "origin": "here", "licence": "MIT", "sha256": "0" * 64}
    blocks = tuple(
        BlockDrift(block=i, all_db=40 - i, class_db=38 - i, register_db=None, patch_db=41 - i) for i in range(12)
    )
    return BuildReport(
        manifest=Manifest(model=model, recipe={}, recipe_digest="d" * 16, host={}, artifacts=tuple(rows)),
        host=_HOST,
        reference="onnx/fp32",
        verdict=judge(rows, drifts, latencies, reference="onnx/fp32"),
        drift=drifts,
        latency=latencies,
        evaluation="24 images",
        calibration="8 images",
        commands=(Command(text="edgekit build --model tiny --out OUT", meaning="this build again"),),
        layers=LayerDrift(images=4, blocks=blocks),
    )


def timed(name: str, ms: float) -> LatencyReport:
    """Latencies of one artifact about `ms`, as fast as 131 ms / `ms` beside FP32."""
    times = tuple((ms * (1 + step), ms) for step in (-0.02, 0.0, 0.02))
    return LatencyReport(
        name=name,
        batch=1,
        image_size=(28, 28),
        threads=2,
        rounds=3,
        times_ms=times,
        p50_ms=ms,
        p90_ms=1.02 * ms,
        p99_ms=None,
        min_ms=0.98 * ms,
        mean_ms=ms,
        load_ms=1,
        first_ms=ms,
        throughput_ips=1000 / ms,
        peak_rss_mb=150 + ms,
        base_rss_mb=60,
        energy_mj=None,
        noise=Noise.of(times, 0.0),
        speedup=Speedup(reference="onnx/fp32", value=131 / ms, low=129 / ms, high=133 / ms),
        run=_RUN,
    )
