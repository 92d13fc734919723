"""The MIL operations that edgekit's programs use, each in torch: arguments by name in, a list of results out.

Semantics: the docstrings of coremltools.converters.mil.mil.ops.defs (iOS 15 to 18), to whose numpy `value_inference`
the tests compare each of them. What an operation could also do and no program of edgekit asks for is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgekit.errors import ExportError

Inputs = Mapping[str, Any]
Operation = Callable[[Inputs], list[Tensor]]


def tensor(value: Any) -> Tensor:
    """A tensor, from one or from a constant of the program."""
    return value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))


def real(value: Any) -> Tensor:
    """As float32, in which all arithmetic is done."""
    return tensor(value).float()


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


def along(parameter: Any, x: Tensor, axis: Any) -> Tensor:
    """A scale or zero point shaped to meet `x`: one number, or one per slice along `axis`."""
    value = real(parameter)
    if value.numel() == 1:
        return value.reshape(())
    return value.reshape([-1 if i == int(axis) % x.ndim else 1 for i in range(x.ndim)])


def conv(i: Inputs) -> list[Tensor]:
    """A convolution over patches."""
    only(str(i["pad_type"]) == "valid" and int(i["groups"]) == 1, "convolutions without padding or groups")
    only(set(numbers(i["dilations"])) == {1}, "convolutions without dilation")
    bias = None if i.get("bias") is None else real(i["bias"])
    return [F.conv2d(real(i["x"]), real(i["weight"]), bias, stride=numbers(i["strides"]))]


def linear(i: Inputs) -> list[Tensor]:
    """x W^T + b."""
    return [F.linear(real(i["x"]), real(i["weight"]), None if i.get("bias") is None else real(i["bias"]))]


def matmul(i: Inputs) -> list[Tensor]:
    """Batched product."""
    x, y = real(i["x"]), real(i["y"])
    return [(x.mT if i.get("transpose_x") else x) @ (y.mT if i.get("transpose_y") else y)]


def attention(i: Inputs) -> list[Tensor]:
    """softmax(q k^T / sqrt(d)) v."""
    only(i.get("attn_mask") is None, "attention without mask")
    return [F.scaled_dot_product_attention(real(i["query"]), real(i["key"]), real(i["value"]))]


def layer_norm(i: Inputs) -> list[Tensor]:
    """Over the last axis."""
    x = real(i["x"])
    only([axis % x.ndim for axis in numbers(i["axes"])] == [x.ndim - 1], "layer_norm over the last axis")
    return [F.layer_norm(x, x.shape[-1:], real(i["gamma"]), real(i["beta"]), float(i["epsilon"]))]


def gelu(i: Inputs) -> list[Tensor]:
    """x * Phi(x)."""
    only(str(i["mode"]) == "EXACT", "exact gelu")
    return [F.gelu(real(i["x"]))]


def quantize(i: Inputs) -> list[Tensor]:
    """clip(round_half_even(x / scale) + zero_point)."""
    x = real(i["input"])
    low, high = (-128, 127) if str(i["output_dtype"]) == "int8" else (0, 255)
    zero = 0 if i.get("zero_point") is None else along(i["zero_point"], x, i.get("axis"))
    return [(torch.round(x / along(i["scale"], x, i.get("axis"))) + zero).clamp(low, high)]


def dequantize(i: Inputs) -> list[Tensor]:
    """(q - zero_point) * scale."""
    x = real(i["input"])
    zero = 0 if i.get("zero_point") is None else along(i["zero_point"], x, i.get("axis"))
    return [(x - zero) * along(i["scale"], x, i.get("axis"))]


def split(i: Inputs) -> list[Tensor]:
    """Into parts of given sizes, or into equal ones."""
    x, axis = tensor(i["x"]), int(i["axis"])
    if i.get("split_sizes") is not None:
        return list(torch.split(x, numbers(i["split_sizes"]), axis))
    return list(torch.split(x, x.shape[axis] // int(i["num_splits"]), axis))


def slice_by_index(i: Inputs) -> list[Tensor]:
    """Ranges or single indices per axis."""
    x = tensor(i["x"])
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


OPERATIONS: dict[str, Operation] = {
    "add": lambda i: [real(i["x"]) + real(i["y"])],
    "cast": lambda i: [tensor(i["x"])],  # the type of its output does it
    "concat": lambda i: [torch.cat([tensor(value) for value in i["values"]], int(i["axis"]))],
    "conv": conv,
    "dequantize": dequantize,
    "gelu": gelu,
    "identity": lambda i: [tensor(i["x"])],
    "layer_norm": layer_norm,
    "linear": linear,
    "matmul": matmul,
    "mul": lambda i: [real(i["x"]) * real(i["y"])],
    "quantize": quantize,
    "reshape": lambda i: [tensor(i["x"]).reshape(numbers(i["shape"]))],
    "scaled_dot_product_attention": attention,
    "silu": lambda i: [F.silu(real(i["x"]))],
    "slice_by_index": slice_by_index,
    "softmax": lambda i: [real(i["x"]).softmax(int(i["axis"]))],
    "split": split,
    "transpose": lambda i: [tensor(i["x"]).permute(numbers(i["perm"]))],
}
