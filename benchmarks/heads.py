"""The share of time that each kind of head takes of a fused INT8 model: ONNX Runtime's profiler, node by node.

python -m benchmarks.heads OUT     # a build folder of the demo model, whose plan is used
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
from torch import nn

from edgekit.artifact import INPUT_NAME, Artifact, Preprocess
from edgekit.backends import get_backend
from edgekit.backends.base import ExportSource
from edgekit.backends.onnx_runner import session_options
from edgekit.heads.classification import LinearClassifier
from edgekit.heads.depth import LinearDepth, depth_layers
from edgekit.heads.dpt import DptDepth
from edgekit.heads.program import Head
from edgekit.heads.read import OWN, read_heads
from edgekit.heads.segmentation import LinearSegmenter
from edgekit.models import zoo
from edgekit.models.config import DinoV2Config
from edgekit.quantize.plan import QuantPlan
from tests import official_heads as official

SIZE = 224
WARMUPS, RUNS = 2, 10


def random_heads(config: DinoV2Config) -> dict[str, Head]:
    """Random weights in the sizes of the official heads of a ViT."""
    width, last = config.width, config.depth - 1
    four = list(depth_layers(config.depth, 4))

    def state(module: nn.Module) -> dict[str, np.ndarray]:
        return {key: value.numpy() for key, value in official.randomised(module).state_dict().items()}

    sizes = [width >> shift for shift in (3, 2, 1, 0)]
    return {
        "classifier": LinearClassifier.from_state(state(official.Classifier(width, 1, 1000)), config),
        "segmentation": LinearSegmenter.from_state(state(official.Segmenter(width, 1, 150)), config),
        "depth": LinearDepth.from_state(state(official.LinearDepther(width, [last], 256, 10)), config, 10.0),
        "dpt": DptDepth.from_state(state(official.Dpt(width, four, 256, sizes)), config),
    }


def shares(artifact: Artifact, folder: Path, threads: int) -> np.ndarray:
    """(RUNS,) of the kernels' time that the nodes of heads take."""
    options = session_options(artifact, threads)
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
    session = ort.InferenceSession(artifact.path, options, providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).standard_normal((1, 3, SIZE, SIZE), np.float32)
    for _ in range(WARMUPS + RUNS):
        session.run(None, {INPUT_NAME: pixels})
    events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [event for event in events if event.get("name", "").endswith("_kernel_time")]
    times = np.array([event["dur"] for event in kernels], np.float64).reshape(WARMUPS + RUNS, -1)[WARMUPS:]
    of_heads = [event["name"].startswith("heads.") for event in kernels[: times.shape[1]]]
    found: np.ndarray = times[:, of_heads].sum(1) / times.sum(1)
    return found


def main() -> None:
    """Print one row per head."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="build folder of the demo model, whose plan is used")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    loaded = zoo.load("demo")
    model = loaded.model.bake(SIZE, SIZE)
    plan = QuantPlan.load(arguments.out / "plan" / "int8.safetensors")
    heads = random_heads(model.config) | read_heads({"saliency": OWN}, loaded)
    backend = get_backend("onnx")
    for name, head in heads.items():
        with tempfile.TemporaryDirectory() as folder:
            source = ExportSource(
                model, Preprocess.for_size(SIZE, SIZE), plan, loaded.name, loaded.licence, loaded.sha256, "",
                heads={name: head},
            )  # fmt: skip
            artifact = backend.export(source, "w8a8", "fused", Path(folder) / "model.onnx")
            found = 100 * shares(artifact, Path(folder), arguments.threads)
        print(f"{name:<14}{np.median(found):6.1f} %  ({found.min():.1f} to {found.max():.1f})")


if __name__ == "__main__":
    main()
