"""Damaged and malicious models: an error with the reason, never a crash, and never a wrong answer."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit import native as ops
from tests.support.ops_models import (
    RopeView,
    attention_model,
    block_model,
    block_weights,
    float_block_model,
    float_weights,
    node_model,
    rope_tables,
    run,
    session,
    spec_of,
)

WEIGHTS = block_weights(64, 128)
FLOATS = [i for i, array in enumerate(WEIGHTS.inputs()) if array.dtype == np.float32]
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


@pytest.mark.parametrize(
    ("tokens", "dim", "words"),
    [
        (4, 32, "4 tokens do not belong to 3"),
        (2, 30, "rope_cos has shape .2, 15."),
        (2, 64, "rope_cos has shape .2, 32."),
    ],
)
def test_rotary_tables_of_another_size_are_refused(tokens: int, dim: int, words: str) -> None:
    rope = rope_tables(tokens, dim)
    for model in (
        block_model(WEIGHTS, rope=rope),
        float_block_model(float_weights(64, 128), rope=rope),
        attention_model(64, num_heads=2, rope=rope),
    ):
        with pytest.raises(Exception, match=words):
            run(model, np.zeros((1, 3, 192 if b"FusedQKV" in model else 64), np.float32))


def test_a_cosine_without_a_sine_is_refused() -> None:
    cos, _ = rope_tables(2, 32)
    with pytest.raises(Exception, match="both rope_cos and rope_sin"):
        run(float_block_model(float_weights(64, 128), rope=(cos,)), X)


def test_heads_of_odd_dimension_have_no_pairs_to_rotate() -> None:
    with pytest.raises(Exception, match=r"even head dimension, not 21|rope_cos has shape"):
        run(attention_model(63, num_heads=3, rope=rope_tables(2, 20)), np.zeros((1, 3, 189), np.float32))


def test_hostile_rotary_positions_are_an_error_code(library: ctypes.CDLL) -> None:
    x, tables = X.ctypes.data_as(ctypes.c_void_p), np.zeros((3, 64), np.float32).ctypes.data
    for heads, cos, tokens in ((2, None, 3), (2, tables, 4), (2, tables, -1), (2, tables, 2**63 - 1), (64, tables, 3)):
        given = [ctypes.c_int64(size) for size in (1, 3, 64, heads)]
        rope = RopeView(cos, tables, tokens)
        qkv = np.zeros((3, 192), np.float32).ctypes.data_as(ctypes.c_void_p)
        assert library.edgekit_attention_run(qkv, x, *given, ctypes.c_float(1), 0, None, ctypes.byref(rope)) == 1
        assert b"rotary" in library.edgekit_last_error()


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


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("index", [*FLOATS, 16])
def test_constants_that_are_not_finite_are_refused_when_the_block_is_made(index: int, value: float) -> None:
    weights = replace(WEIGHTS, fc2_gain=np.ones(128, np.float32))
    arrays = weights.inputs()
    arrays[index] = arrays[index].copy()
    arrays[index].flat[-1] = value
    constants = [numpy_helper.from_array(array, f"c{i}") for i, array in enumerate(arrays)]
    with pytest.raises(Exception, match="finite"):
        session(node_model("QViTBlock", 64, 64, constants, block_attributes()))


@pytest.mark.parametrize("index", range(12))
def test_float_constants_that_are_not_finite_are_refused(index: int) -> None:
    arrays = float_weights(64, 128).inputs()
    arrays[index] = arrays[index].copy()
    arrays[index].flat[0] = np.nan
    constants = [numpy_helper.from_array(array, f"c{i}") for i, array in enumerate(arrays)]
    attributes = {name: value for name, value in block_attributes().items() if name != "tier"}
    with pytest.raises(Exception, match="finite"):
        session(node_model("ViTBlock", 64, 64, constants, attributes))


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(ops.ort_library()))
    library.edgekit_last_error.restype = ctypes.c_char_p
    library.edgekit_gemm_gmacs.restype = library.edgekit_ceiling_gmacs.restype = ctypes.c_double
    library.edgekit_block_destroy.argtypes = [ctypes.c_void_p]
    return library


def test_null_where_it_may_not_be_is_an_error_code(library: ctypes.CDLL) -> None:
    spec, block = spec_of(WEIGHTS), ctypes.c_void_p()
    sizes = [ctypes.c_int64(size) for size in (1, 3, 64, 2)]
    x = X.ctypes.data_as(ctypes.c_void_p)
    assert library.edgekit_block_create(None, ctypes.byref(block)) == 1
    assert library.edgekit_block_create(ctypes.byref(spec), None) == 1
    assert library.edgekit_block_run(None, x, x, *sizes[:2], None, None) == 1
    assert b"NULL" in library.edgekit_last_error()
    assert library.edgekit_attention_run(None, x, *sizes, ctypes.c_float(1), 0, None, None) == 1
    assert library.edgekit_attention_run(x, None, *sizes, ctypes.c_float(1), 0, None, None) == 1
    assert library.edgekit_block_create(ctypes.byref(spec), ctypes.byref(block)) == 0
    assert library.edgekit_block_run(block, None, x, *sizes[:2], None, None) == 1
    assert library.edgekit_block_run(block, x, None, *sizes[:2], None, None) == 1
    assert library.edgekit_block_run(block, x, X.copy().ctypes.data_as(ctypes.c_void_p), *sizes[:2], None, None) == 0
    library.edgekit_block_destroy(block)
    library.edgekit_block_destroy(None)


@pytest.mark.parametrize("field", ["norm1_weight", "norm2_bias", "qkv", "proj", "fc1", "fc2"])
def test_null_constants_are_named(library: ctypes.CDLL, field: str) -> None:
    spec, block = spec_of(WEIGHTS), ctypes.c_void_p()
    for name in ("weight", "scale", "bias") if hasattr(getattr(spec, field), "weight") else ("",):
        broken = spec_of(WEIGHTS)
        if name:
            setattr(getattr(broken, field), name, None)
        else:
            setattr(broken, field, None)
        assert library.edgekit_block_create(ctypes.byref(broken), ctypes.byref(block)) == 1
        assert (field.encode() if name else b"norm") in library.edgekit_last_error()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("width", size) for size in (0, -1, 63, 2**14 + 2, 2**40, 2**63 - 1, -(2**63))),
        *(("hidden", size) for size in (0, -1, 2**16 + 1, 2**62)),
        *(("heads", size) for size in (0, -1, 3, 2**11, 2**63 - 1)),
        *((name, value) for name in ("scale", "epsilon") for value in (float("nan"), float("inf"))),
        *((name, value) for name in ("tier", "attention", "activation") for value in (-2, 5, 2**31 - 1, -(2**31))),
    ],
)
def test_hostile_sizes_of_a_block_are_an_error_code(library: ctypes.CDLL, field: str, value: float) -> None:
    spec, block = spec_of(WEIGHTS), ctypes.c_void_p(1)
    setattr(spec, field, value)
    assert library.edgekit_block_create(ctypes.byref(spec), ctypes.byref(block)) == 1
    assert not block.value
    assert library.edgekit_last_error()


@pytest.mark.parametrize("size", [-1, -(2**63), 2**21, 2**63 - 1])
@pytest.mark.parametrize("place", range(4))
def test_hostile_sizes_of_a_run_are_an_error_code(library: ctypes.CDLL, place: int, size: int) -> None:
    sizes = [1, 3, 64, 2]
    sizes[place] = size
    x = X.ctypes.data_as(ctypes.c_void_p)
    given = [ctypes.c_int64(each) for each in sizes]
    assert library.edgekit_attention_run(x, x, *given, ctypes.c_float(1), 0, None, None) == 1
    if place < 2:
        block = ctypes.c_void_p()
        assert library.edgekit_block_create(ctypes.byref(spec_of(WEIGHTS)), ctypes.byref(block)) == 0
        assert library.edgekit_block_run(block, x, x, *given[:2], None, None) == 1
        library.edgekit_block_destroy(block)


def test_more_tokens_than_there_is_memory_for_are_an_error_code(library: ctypes.CDLL) -> None:
    x = X.ctypes.data_as(ctypes.c_void_p)
    given = [ctypes.c_int64(size) for size in (2**20, 2**20, 64, 2)]
    assert library.edgekit_attention_run(x, x, *given, ctypes.c_float(1), 0, None, None) == 2
    assert b"memory" in library.edgekit_last_error()


@pytest.mark.parametrize(
    "arguments",
    [
        *((0, 8, *sizes) for sizes in ((-1, 64, 64), (4, 0, 64), (4, 64, -5), (2**40, 64, 64))),
        *((tier, 8, 4, 64, 64) for tier in (3, -1)),
        *((0, bits, 4, 64, 64) for bits in (0, 40)),
    ],
)
def test_the_benchmarks_refuse_hostile_sizes(library: ctypes.CDLL, arguments: tuple[int, ...]) -> None:
    tier, bits, *sizes = arguments
    given = [ctypes.c_int64(size) for size in sizes]
    assert library.edgekit_gemm_gmacs(ctypes.c_int32(tier), ctypes.c_int32(bits), *given) == 0
    assert library.edgekit_last_error()
    assert tier in (0, 1, 2) or library.edgekit_ceiling_gmacs(ctypes.c_int32(tier)) == 0


def block_attributes() -> dict[str, object]:
    return {"num_heads": 2, "scale": 0.3, "epsilon": 1e-6, "tier": "speed"}


def free_model(op: str, rank: int, attributes: dict[str, object]) -> bytes:
    node = helper.make_node(op, ["x"], ["y"], domain="edgekit", **attributes)
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [f"d{i}" for i in range(rank)])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("edgekit", 1)]
    graph = helper.make_graph([node], "g", [given], [out])
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
