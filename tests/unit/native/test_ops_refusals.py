"""Damaged and malicious models: an error with the reason, never a crash, and never a wrong answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.support.ops_models import attention_model, block_model, block_weights, node_model, run, session

WEIGHTS = block_weights(64, 128)
X = np.zeros((1, 3, 64), np.float32)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"num_heads": 0}, "num_heads 0"),
        ({"num_heads": -6}, "num_heads -6"),
        ({"num_heads": 2**40}, "num_heads 1099511627776"),
        ({"num_heads": 7}, "not a multiple of num_heads 7"),
        ({"scale": float("nan")}, "scale is not finite"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"tier": "fast"}, 'tier is "fast"'),
        ({"tier": "x" * 500}, "too long"),
        ({"tier": 3}, "tier is missing or"),
    ],
)
def test_wrong_attributes_of_a_block(attributes: dict[str, object], words: str) -> None:
    with pytest.raises(Exception, match=words.replace('"', ".").replace("missing or", "missing")):
        session(block_model(WEIGHTS, **attributes))


@pytest.mark.parametrize("index", range(1, 18))
@pytest.mark.parametrize("change", ["shorter", "longer", "another_rank", "empty"])
def test_constants_of_another_size(index: int, change: str) -> None:
    weights = replace(WEIGHTS, fc2_gain=np.ones(128, np.float32))
    arrays = weights.inputs()
    old = arrays[index - 1]
    arrays[index - 1] = {
        "shorter": old[:-1],
        "longer": np.concatenate([old, old[:1]]),
        "another_rank": old[None],
        "empty": old[:0],
    }[change]
    constants = [numpy_helper.from_array(np.ascontiguousarray(a), f"c{i}") for i, a in enumerate(arrays)]
    model = node_model("QViTBlock", 64, 64, constants, block_attributes())
    with pytest.raises(Exception, match=r"has shape|out of range|width"):
        session(model)


def test_weights_must_be_constants() -> None:
    names = [f"c{i}" for i in range(16)]
    node = helper.make_node("QViTBlock", ["x", *names], ["y"], domain="edgekit", **block_attributes())
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 64])]
    for name, array in zip(names, WEIGHTS.inputs(), strict=True):
        kind = TensorProto.INT8 if array.dtype == np.int8 else TensorProto.FLOAT
        given.append(helper.make_tensor_value_info(name, kind, array.shape))
    out = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 64])]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("edgekit", 1)]
    model = helper.make_model(helper.make_graph([node], "g", given, out), opset_imports=opsets, ir_version=9)
    with pytest.raises(Exception, match="is not an initializer"):
        session(model.SerializeToString())


@pytest.mark.parametrize(
    "attributes", [{"num_heads": 0}, {"num_heads": 1, "mode": "f64"}, {"num_heads": 1, "mode": 2}, {}]
)
def test_wrong_attributes_of_attention(attributes: dict[str, object]) -> None:
    with pytest.raises(Exception, match=r"FusedQKVAttention.*(num_heads|mode)"):
        session(attention_model(64, **attributes))


@pytest.mark.parametrize("shape", [(1, 3, 100), (1, 3, 0), (4,), (1, 2, 3, 192), (1, 3, 96)])
def test_wrong_shapes_at_run_time(shape: tuple[int, ...]) -> None:
    x = np.zeros(shape, np.float32)
    model = free_model("FusedQKVAttention", len(shape), {"num_heads": 5, "scale": 0.1, "mode": "u8"})
    with pytest.raises(Exception, match="FusedQKVAttention"):
        session(model).run(None, {"x": x})


def test_a_block_refuses_tokens_of_another_width() -> None:
    model = node_model(
        "QViTBlock",
        "D",
        "D",
        [numpy_helper.from_array(a, f"c{i}") for i, a in enumerate(WEIGHTS.inputs())],
        block_attributes(),
    )
    with pytest.raises(Exception, match=r"\(B, N, 64\)"):
        session(model).run(None, {"x": np.zeros((1, 3, 65), np.float32)})


def test_what_random_attributes_and_shapes_do() -> None:
    rng = np.random.default_rng(7)
    outcomes = {"right": 0, "refused": 0}
    for _ in range(120):
        heads, width, tokens = (int(rng.integers(-2, 9)), int(rng.integers(1, 40)), int(rng.integers(0, 70)))
        mode = str(rng.choice(["f32", "hybrid", "u8", "i16", ""]))
        qkv = rng.standard_normal((int(rng.integers(0, 3)), tokens, 3 * width)).astype(np.float32)
        try:
            y = run(attention_model(width, num_heads=heads, mode=mode), qkv)
        except Exception as error:
            assert "FusedQKVAttention" in str(error)  # noqa: PT017 - the outcomes are counted
            outcomes["refused"] += 1
        else:
            assert heads > 0
            assert width % heads == 0
            assert y.shape == (*qkv.shape[:2], width)
            assert np.isfinite(y).all()
            outcomes["right"] += 1
    assert min(outcomes.values()) > 10


def block_attributes() -> dict[str, object]:
    return {"num_heads": 2, "scale": 0.3, "epsilon": 1e-6, "tier": "speed"}


def free_model(op: str, rank: int, attributes: dict[str, object]) -> bytes:
    node = helper.make_node(op, ["x"], ["y"], domain="edgekit", **attributes)
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [f"d{i}" for i in range(rank)])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("edgekit", 1)]
    graph = helper.make_graph([node], "g", [given], [out])
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
