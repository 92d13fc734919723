"""CPUs whose int8 products saturate: what an OpenVINO file says of them, and that it is computed rightly there."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekit.artifact import Artifact, Preprocess
from edgekit.backends.openvino.backend import OpenVinoBackend
from edgekit.models.vit import VisionTransformer
from edgekit.plan.quant import QuantPlan
from edgekit.quantization.simulate import simulate
from tests.support.pixels import OBLONG, noise
from tests.support.plans import export_source, rtn_plan

pytest.importorskip("openvino")

from edgekit.backends.openvino import runner as openvino_runner

pixels = partial(noise, OBLONG)


def export(model: VisionTransformer, path: Path, plan: QuantPlan) -> Artifact:
    source = export_source(model, Preprocess.for_size(*OBLONG), plan)
    return OpenVinoBackend().export(source, "w8a8", "standard", path)


def test_weights_that_may_saturate_are_said(
    tiny: VisionTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bits, saturates, words in (
        (8, True, "of which this is one"),
        (8, False, "without VNNI saturate"),
        (7, True, ""),
    ):
        monkeypatch.setattr(openvino_runner, "int8_saturates", lambda saturates=saturates: saturates)
        notes = export(tiny, tmp_path / "model.xml", rtn_plan(tiny, pixels(2), bits=bits)).notes
        assert notes == () if bits == 7 else words in notes[0]


WITHOUT_VNNI = """
import sys
from pathlib import Path
import numpy as np
from edgekit.backends import load
from edgekit.backends.openvino import runner as openvino_runner
if sys.argv[1] == "int8":
    openvino_runner.int8_saturates = lambda: False
assert openvino_runner.int8_saturates() == (sys.argv[1] == "float")
folder = Path(sys.argv[2])
model = load(folder / "model.xml", threads=1)
np.save(folder / f"{sys.argv[1]}.npy", model(np.load(folder / "x.npy"))["last_hidden_state"])
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="only x86 has int8 products that saturate")
def test_cpus_without_vnni_compute_the_plan(tiny: VisionTransformer, tmp_path: Path) -> None:
    """oneDNN held to AVX2: its int8 products saturate, the runner's do not."""
    plan = rtn_plan(tiny, pixels(8))
    gemm = plan.gemms["blocks.0.mlp.fc2"]
    loud = replace(gemm, weight=np.where(gemm.weight < 0, -127, 127).astype(np.int8))
    plan = replace(plan, gemms={gemm.name: loud})
    export(tiny, tmp_path / "model.xml", plan)
    np.save(tmp_path / "x.npy", pixels().numpy())
    with torch.no_grad():
        oracle = simulate(plan)(pixels())[0].numpy()
    quality = {}
    for how in ("int8", "float"):
        subprocess.run(
            [sys.executable, "-c", WITHOUT_VNNI, how, tmp_path],
            check=True,
            env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
        )
        error = oracle - np.load(tmp_path / f"{how}.npy")
        quality[how] = 10 * np.log10(np.square(oracle).sum() / np.square(error).sum())
    assert quality["float"] > 60
    assert quality["int8"] < 50  # what it guards against


def test_seven_bit_weights_run_in_int8_everywhere(
    tiny: VisionTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_runner, "int8_saturates", lambda: True)
    for bits, integers in ((8, 0), (7, 9)):
        plan = rtn_plan(tiny, pixels(2), bits=bits)
        audit = OpenVinoBackend().audit(export(tiny, tmp_path / "model.xml", plan))
        assert (audit["gemms_int8"], len(audit["planned_but_not_int8"])) == (integers, 9 - integers)
