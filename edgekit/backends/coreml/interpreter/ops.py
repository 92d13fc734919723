"""The MIL operations that edgekit's programs use, each in numpy: arguments by name in, a list of results out.

Semantics: the docstrings of coremltools.converters.mil.mil.ops.defs (iOS 15 to 18), to whose own `value_inference` the
tests compare each of them. What an operation could also do and no program of edgekit asks for is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from edgekit.errors import ExportError

Inputs = Mapping[str, Any]
Operation = Callable[[Inputs], list[np.ndarray]]


def real(value: Any) -> np.ndarray:
    """As float32, in which all arithmetic is done."""
    return np.asarray(value, np.float32)


def numbers(value: Any) -> list[int]:
    """A list of integers."""
    return [int(item) for item in np.asarray(value).ravel()]


def only(condition: bool, what: str) -> None:
    """Refuse what is not implemented.

    Raises:
        ExportError: `condition` does not hold.
    """
    if not condition:
        raise ExportError(f"the MIL interpreter implements {what} only", fix="run the package on macOS")


def along(parameter: Any, x: np.ndarray, axis: Any) -> np.ndarray:
    """A scale or zero point shaped to meet `x`: one number, or one per slice along `axis`."""
    value = real(parameter)
    if value.size == 1:
        return value.reshape(())
    return value.reshape([-1 if i == int(axis) % x.ndim else 1 for i in range(x.ndim)])


def conv(i: Inputs) -> list[np.ndarray]:
    """A convolution as the product of its windows with the weights."""
    x, weight = real(i["x"]), real(i["weight"])  # (1, C, H, W), (D, C, h, w)
    only(int(i["groups"]) == 1 and set(numbers(i["dilations"])) == {1}, "convolutions without groups or dilation")
    only(str(i["pad_type"]) in ("valid", "custom"), "convolutions with padding in numbers")
    if str(i["pad_type"]) == "custom":
        top, bottom, left, right = numbers(i["pad"])
        x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    down, across = numbers(i["strides"])
    windows: np.ndarray = sliding_window_view(x, weight.shape[2:], axis=(2, 3))  # type: ignore[call-overload]
    windows = windows[:, :, ::down, ::across]  # (1, C, rows, columns, h, w)
    result = np.moveaxis(np.tensordot(windows, weight, axes=([1, 4, 5], [1, 2, 3])), -1, 1)
    return [result if i.get("bias") is None else result + real(i["bias"])[:, None, None]]


def linear(i: Inputs) -> list[np.ndarray]:
    """x W^T + b."""
    result = real(i["x"]) @ real(i["weight"]).T
    return [result if i.get("bias") is None else result + real(i["bias"])]


def matmul(i: Inputs) -> list[np.ndarray]:
    """Batched matrix product."""
    x, y = real(i["x"]), real(i["y"])
    return [(x.swapaxes(-1, -2) if i.get("transpose_x") else x) @ (y.swapaxes(-1, -2) if i.get("transpose_y") else y)]


def attention(i: Inputs) -> list[np.ndarray]:
    """softmax(q k^T / sqrt(d)) v."""
    only(i.get("attn_mask") is None, "attention without mask")
    query, key, value = real(i["query"]), real(i["key"]), real(i["value"])
    logits = (query * np.float32(query.shape[-1] ** -0.5)) @ key.swapaxes(-1, -2)
    return [softmax(logits, -1) @ value]


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """exp(x - max) / sum."""
    numerators = np.exp(x - x.max(axis, keepdims=True))
    result: np.ndarray = numerators / numerators.sum(axis, keepdims=True)
    return result


def layer_norm(i: Inputs) -> list[np.ndarray]:
    """Over the last axis. Squares beyond the number type are infinite, as on a device that keeps them in it."""
    x = real(i["x"])
    only([axis % x.ndim for axis in numbers(i["axes"])] == [x.ndim - 1], "layer_norm over the last axis")
    centred = x - x.mean(-1, keepdims=True)
    squares = np.square(centred)
    if np.asarray(i["x"]).dtype == np.float16:
        squares[squares > np.finfo(np.float16).max] = np.inf
    variance = squares.mean(-1, keepdims=True)
    return [centred / np.sqrt(variance + np.float32(i["epsilon"])) * real(i["gamma"]) + real(i["beta"])]


_REACH, _STEPS = 6, 2**13  # beyond +-6 the normal distribution is 0 or 1 to float32; steps per unit


@cache
def _normal_distribution() -> np.ndarray:
    """Phi at -6, -6 + 1/8192, ..., 6: between neighbours a straight line is off by less than 1e-9."""
    grid = np.arange(-_REACH * _STEPS, _REACH * _STEPS + 1) / _STEPS
    return np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in grid.tolist()], np.float32)


def gelu(i: Inputs) -> list[np.ndarray]:
    """x * Phi(x)."""
    only(str(i["mode"]) == "EXACT", "exact gelu")
    x, table = real(i["x"]), _normal_distribution()
    position = (np.clip(x, -_REACH, _REACH) + _REACH) * np.float32(_STEPS)
    index = np.minimum(position.astype(np.int32), len(table) - 2)
    low = table[index]
    return [x * (low + (table[index + 1] - low) * (position - index))]


def quantize(i: Inputs) -> list[np.ndarray]:
    """clip(round_half_even(x / scale) + zero_point)."""
    x = real(i["input"])
    low, high = (-128, 127) if str(i["output_dtype"]) == "int8" else (0, 255)
    zero = 0 if i.get("zero_point") is None else along(i["zero_point"], x, i.get("axis"))
    return [np.clip(np.rint(x / along(i["scale"], x, i.get("axis"))) + zero, low, high)]


def dequantize(i: Inputs) -> list[np.ndarray]:
    """Real values of integers: (q - zero_point) * scale."""
    x = real(i["input"])
    zero = 0 if i.get("zero_point") is None else along(i["zero_point"], x, i.get("axis"))
    return [(x - zero) * along(i["scale"], x, i.get("axis"))]


def split(i: Inputs) -> list[np.ndarray]:
    """Into parts of given sizes, or into equal ones."""
    x, axis = np.asarray(i["x"]), int(i["axis"])
    if i.get("split_sizes") is not None:
        return np.split(x, np.cumsum(numbers(i["split_sizes"]))[:-1], axis)
    return np.split(x, int(i["num_splits"]), axis)


def slice_by_index(i: Inputs) -> list[np.ndarray]:
    """Ranges or single indices per axis."""
    x = np.asarray(i["x"])
    begin, end = numbers(i["begin"]), numbers(i["end"])
    stride = [1] * x.ndim if i.get("stride") is None else numbers(i["stride"])
    first, last, squeezed = (
        [False] * x.ndim if i.get(f"{part}_mask") is None else [bool(b) for b in np.asarray(i[f"{part}_mask"]).ravel()]
        for part in ("begin", "end", "squeeze")
    )
    index = tuple(
        begin[a] if squeezed[a] else slice(None if first[a] else begin[a], None if last[a] else end[a], stride[a])
        for a in range(x.ndim)
    )
    return [x[index]]


def pad(i: Inputs) -> list[np.ndarray]:
    """Pad with a constant."""
    only(str(i["mode"]) == "constant", "padding with a constant")
    x, around = np.asarray(i["x"]), np.asarray(i["pad"]).reshape(-1, 2)
    missing = np.zeros((x.ndim - len(around), 2), around.dtype)
    return [np.pad(x, np.concatenate([missing, around]), constant_values=i["constant_val"])]


def silu(i: Inputs) -> list[np.ndarray]:
    """x / (1 + exp(-x)), written with tanh, which cannot overflow."""
    x = real(i["x"])
    return [x * np.float32(0.5) * (1 + np.tanh(x * np.float32(0.5)))]


def pixel_shuffle(i: Inputs) -> list[np.ndarray]:
    """Pixel shuffle: (1, C * r * r, H, W) -> (1, C, H * r, W * r)."""
    x, r = np.asarray(i["x"]), int(i["upscale_factor"])
    n, channels, height, width = x.shape
    apart = x.reshape(n, channels // r**2, r, r, height, width).transpose(0, 1, 4, 2, 5, 3)
    return [apart.reshape(n, channels // r**2, height * r, width * r)]


def resize_bilinear(i: Inputs) -> list[np.ndarray]:
    """Along rows, then along columns, by the sampling modes that correspond to torch's two."""
    x, mode = real(i["x"]), str(i["sampling_mode"])
    only(mode in ("STRICT_ALIGN_CORNERS", "UNALIGN_CORNERS"), "bilinear resizing with strictly or un-aligned corners")
    for axis, side in ((2, int(i["target_size_height"])), (3, int(i["target_size_width"]))):
        old, places = x.shape[axis], np.arange(side, dtype=np.float32)
        if mode == "UNALIGN_CORNERS":
            places = np.clip((places + 0.5) * np.float32(old / side) - 0.5, 0, old - 1)
        else:
            places = places * np.float32((old - 1) / max(side - 1, 1))
        first = np.minimum(places.astype(np.int64), old - 1)
        share = (places - first).reshape(-1, *[1] * (3 - axis))
        low, high = x.take(first, axis), x.take(np.minimum(first + 1, old - 1), axis)
        x = low + (high - low) * share
    return [x]


OPERATIONS: dict[str, Operation] = {
    "abs": lambda i: [np.abs(real(i["x"]))],
    "add": lambda i: [real(i["x"]) + real(i["y"])],
    "cast": lambda i: [np.asarray(i["x"])],  # the type of its output does it
    "concat": lambda i: [np.concatenate([np.asarray(value) for value in i["values"]], int(i["axis"]))],
    "conv": conv,
    "dequantize": dequantize,
    "gelu": gelu,
    "identity": lambda i: [np.asarray(i["x"])],
    "layer_norm": layer_norm,
    "linear": linear,
    "matmul": matmul,
    "maximum": lambda i: [np.maximum(real(i["x"]), real(i["y"]))],
    "mul": lambda i: [real(i["x"]) * real(i["y"])],
    "pad": pad,
    "pixel_shuffle": pixel_shuffle,
    "quantize": quantize,
    "real_div": lambda i: [real(i["x"]) / real(i["y"])],
    "reduce_l2_norm": lambda i: [
        np.sqrt(np.square(real(i["x"])).sum(tuple(numbers(i["axes"])), keepdims=bool(i["keep_dims"])))
    ],
    "reduce_max": lambda i: [real(i["x"]).max(tuple(numbers(i["axes"])), keepdims=bool(i["keep_dims"]))],
    "reduce_mean": lambda i: [real(i["x"]).mean(tuple(numbers(i["axes"])), keepdims=bool(i["keep_dims"]))],
    "relu": lambda i: [np.maximum(real(i["x"]), 0)],
    "reshape": lambda i: [np.asarray(i["x"]).reshape(numbers(i["shape"]))],
    "resize_bilinear": resize_bilinear,
    "scaled_dot_product_attention": attention,
    "sigmoid": lambda i: [0.5 + 0.5 * np.tanh(real(i["x"]) * np.float32(0.5))],
    "silu": silu,
    "slice_by_index": slice_by_index,
    "softmax": lambda i: [softmax(real(i["x"]), int(i["axis"]))],
    "split": split,
    "transpose": lambda i: [np.asarray(i["x"]).transpose(numbers(i["perm"]))],
}
