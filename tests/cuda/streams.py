"""Streams of the device under test, by the plug-in's own functions. In the simulator they can stand still."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from memory import TYPESTR

import gradwire
from gradwire import _native

_PACKAGE = Path(gradwire.__file__).parent
_STATUS = _native.gpu.status()
SIMULATED = _STATUS["simulated"]
_FILE = _PACKAGE / f"libgradwire_{'cusim' if SIMULATED else 'cuda'}.so"
library: Any = ctypes.CDLL(str(_FILE)) if _STATUS["usable"] else None
# the table of csrc/cuda/plugin.h: version, size, then pointers
_NAMES = [
    "error_text",
    "device_count",
    "driver_version",
    "describe",
    "device_of",
    "allocate",
    "release",
    "copy",
    "stream_create",
    "stream_destroy",
    "synchronize",
]


def _function(name: str) -> Any:
    table = (ctypes.c_uint64 * (1 + len(_NAMES)))()
    assert library.gradwire_cuda_table(2, ctypes.sizeof(table), table) == 0
    return ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * 5)(table[1 + _NAMES.index(name)])


class Stream:
    """A stream of device 0 that does not wait for others."""

    def __init__(self) -> None:
        made = ctypes.c_void_p()
        assert _function("stream_create")(0, ctypes.addressof(made), 0, 0, 0) == 0
        self.address = made.value
        self._released = ctypes.c_int(1)

    def copy(self, to: Any, source: Any) -> None:
        a, b = (x.__cuda_array_interface__["data"][0] for x in (to, source))
        assert _function("copy")(0, a, b, to.size * np.dtype(to.dtype).itemsize, self.address) == 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Whatever is put on it inside the block waits for the end of the block."""
        self._released.value = 0
        library.gradwire_cusim_hold(ctypes.c_void_p(self.address), ctypes.byref(self._released))
        try:
            yield
        finally:
            self._released.value = 1

    def synchronize(self) -> None:
        assert _function("synchronize")(0, self.address, 0, 0, 0) == 0


class OnStream:
    """An array as CuPy would show it while `stream` is its current one."""

    def __init__(self, array: Any, stream: Stream) -> None:
        self.array, self.stream = array, stream
        self.shape, self.size, self.dtype = array.shape, array.size, array.dtype

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": TYPESTR[self.dtype],
            "data": self.array.__cuda_array_interface__["data"],
            "stream": self.stream.address,
            "version": 3,
        }
