"""The platforms a bundle can serve: what each needs of a build, and the folder of templates that it gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from edgekit.artifact import Format
from edgekit.errors import RecipeError

Platform = Literal["web", "python", "cpp", "android", "ios"]

JS_NAMES = {"onnx/w8a8": "model_quantized"}  # transformers.js finds its `q8` by this name
TEMPLATES = Path(__file__).parent / "templates"
OWN: Format = "edgekit"
"""Files that edgekit's own library runs: a web page with them needs the library in WebAssembly."""
WASM = "web/edgekit-web/wasm"
"""Where it lies in a bundle."""


@dataclass(frozen=True)
class PlatformRow:
    """`needs` one of these artifacts; files of `formats` go into the bundle; `title` heads it in the model card."""

    title: str
    needs: tuple[str, ...]
    formats: tuple[Format, ...]


PLATFORMS: dict[Platform, PlatformRow] = {
    "web": PlatformRow("Web and Node", ("edgekit/w8a8", "onnx/w8a8"), ("edgekit", "onnx")),
    "python": PlatformRow("Python", ("onnx/w8a8", "openvino/w8a8"), ("onnx", "openvino")),
    "cpp": PlatformRow("C++", ("onnx/w8a8", "openvino/w8a8"), ("onnx", "openvino")),
    "android": PlatformRow("Android", ("tflite/w8a8", "onnx/w8a8"), ("tflite", "onnx")),
    "ios": PlatformRow("iOS and macOS", ("coreml/w8a8",), ("coreml",)),
}


def platforms_of(words: Sequence[str]) -> tuple[Platform, ...]:
    """Names as typed, in the table's order. Raises RecipeError on an unknown one."""
    known: tuple[Platform, ...] = get_args(Platform)
    for word in words:
        if word not in known:
            raise RecipeError(
                f"unknown platform {word!r}", why="known are " + ", ".join(known), fix="--platform " + ",".join(known)
            )
    return tuple(platform for platform in known if platform in words)
