"""libedgekit from Python: opens a `.edgekit` file and runs it, with numpy and ctypes alone."""

from __future__ import annotations

import ctypes
import json
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import DataError
from edgekit.native.library import loaded_library

_FLOATS = ctypes.POINTER(ctypes.c_float)
_BYTES = ctypes.POINTER(ctypes.c_uint8)
_FIX = "edgekit build --out OUT --format edgekit"


class _Output(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("values", _FLOATS), ("rank", ctypes.c_int32), ("shape", ctypes.c_int32 * 4))


class _Options(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("threads", ctypes.c_int32),
        ("host", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
        ("scratch_bytes", ctypes.c_size_t),
    )


class NativeModel:
    """An opened model: read-only, for any number of contexts on any threads."""

    def __init__(self, path: Path) -> None:
        """Open and pack for this CPU.

        Raises:
            BackendMissing: the native library is not here.
            DataError: missing, damaged, or no file of edgekit's.
        """
        self.path, self._library = path, _functions()
        self._handle = ctypes.c_void_p()
        if self._library.edgekit_model_open_file(str(path).encode(), None, ctypes.byref(self._handle)):
            raise DataError(f"libedgekit cannot open {path}", why=_last_error(self._library), fix=_FIX)
        weakref.finalize(self, self._library.edgekit_model_close, self._handle)
        self.description: dict[str, Any] = json.loads(self._library.edgekit_model_describe(self._handle))

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs, in their order."""
        return ["last_hidden_state", "pooler_output", *(head["name"] for head in self.description["heads"])]

    def context(self, threads: int = 1) -> NativeContext:
        """A context that runs the model for one caller at a time, on a pool of `threads` threads of its own."""
        return NativeContext(self, threads)

    def check(self) -> float:
        """Run the file's golden picture; returns the cosine of `pooler_output` with the float model's.

        Raises:
            DataError: it is lower than what the file's precision reaches.
        """
        return self.context().check()

    def crop(self, picture: np.ndarray, size: tuple[int, int] = (0, 0)) -> np.ndarray:
        """The evaluation transform of a picture (H, W, 3) uint8, before normalisation: (height, width, 3) uint8.

        Raises:
            DataError: the picture is too thin or too large.
        """
        height, width = size if any(size) else self.description["manifest"]["preprocess"]["input_size"]
        crop = np.empty((height, width, 3), np.uint8)
        given = np.ascontiguousarray(picture)
        code = self._library.edgekit_model_crop(
            self._handle, given.ctypes.data_as(_BYTES), *given.shape[:2], 0, height, width, crop.ctypes.data_as(_BYTES)
        )
        if code:
            raise DataError("the picture cannot be cropped", why=_last_error(self._library))
        return crop


class NativeContext:
    """One run at a time of a model; the model stays open as long as this lives."""

    def __init__(self, model: NativeModel, threads: int) -> None:
        """Raises DataError where so many threads cannot be started."""
        self.model, self._library = model, model._library
        self._handle = ctypes.c_void_p()
        options = _Options(size=ctypes.sizeof(_Options), threads=threads)
        if self._library.edgekit_context_create(model._handle, ctypes.byref(options), ctypes.byref(self._handle)):
            raise DataError(f"libedgekit cannot run {model.path}", why=_last_error(self._library))
        weakref.finalize(self, self._library.edgekit_context_destroy, self._handle)

    def run(self, pixel_values: np.ndarray) -> dict[str, np.ndarray]:
        """Every output of (B, 3, H, W) float32, by name.

        Raises:
            DataError: an image size that the model cannot take, or memory is short.
        """
        given = np.ascontiguousarray(pixel_values, np.float32)
        batch, _, height, width = given.shape
        return self._outputs(
            self._library.edgekit_context_run(self._handle, given.ctypes.data_as(_FLOATS), batch, height, width)
        )

    def run_picture(self, picture: np.ndarray, size: tuple[int, int] = (0, 0)) -> dict[str, np.ndarray]:
        """Every output of one picture (H, W, 3) uint8 behind the evaluation transform to `size`, (0, 0): the model's.

        Raises:
            DataError: as for `run` and `NativeModel.crop`.
        """
        given = np.ascontiguousarray(picture)
        pointer = given.ctypes.data_as(_BYTES)
        return self._outputs(self._library.edgekit_context_run_rgb(self._handle, pointer, *given.shape[:2], 0, *size))

    def check(self) -> float:
        """The cosine of the file's golden picture, see `NativeModel.check`."""
        cosine = ctypes.c_float()
        if self._library.edgekit_context_check(self._handle, ctypes.byref(cosine)):
            raise DataError(f"{self.model.path} fails its self-test", why=_last_error(self._library), fix=_FIX)
        return cosine.value

    def _outputs(self, code: int) -> dict[str, np.ndarray]:
        """Copies of the outputs of a run that has returned `code`."""
        if code:
            raise DataError(f"{self.model.path} does not run", why=_last_error(self._library))
        found, output = {}, _Output()
        for index, name in enumerate(self.model.outputs):
            if self._library.edgekit_context_output(self._handle, index, ctypes.byref(output)):
                raise DataError(f"{self.model.path} has no output {name}", why=_last_error(self._library))
            found[name] = np.ctypeslib.as_array(output.values, tuple(output.shape[: output.rank])).copy()
        return found


def _last_error(library: ctypes.CDLL) -> str:
    return bytes(library.edgekit_last_error()).decode()


@cache
def _functions() -> ctypes.CDLL:
    """The library with the types of its functions; all others take pointers and 32-bit numbers, and return a status."""
    library = loaded_library()
    library.edgekit_last_error.restype = ctypes.c_char_p
    library.edgekit_model_describe.restype = ctypes.c_char_p
    library.edgekit_model_close.restype = library.edgekit_context_destroy.restype = None
    return library
