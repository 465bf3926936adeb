"""Arrays in GPU memory at any address, with a margin around them that must stay as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gradwire import _native
from gradwire.testing import to_cpu, to_gpu

MARGIN = 64
FILL = 0xA5
ITEM = {"float32": 4, "float16": 2, "bfloat16": 2, "uint8": 1, "int64": 8}
TYPESTR = {"float32": "<f4", "float16": "<f2", "bfloat16": "<V2", "uint8": "|u1", "int64": "<i8"}


class Placed:
    """`count` elements that begin `shift` bytes after a multiple of 256."""

    def __init__(self, count: int, dtype: str, shift: int = 0, fill: npt.NDArray[Any] | None = None) -> None:
        self.dtype, self.size, self.shape = dtype, count, (count,)
        self._begin = MARGIN + shift
        self._nbytes = count * ITEM[dtype]
        host = np.full(self._begin + self._nbytes + MARGIN, FILL, np.uint8)
        if fill is not None:
            host[self._begin : self._begin + self._nbytes] = fill.reshape(-1).view(np.uint8)
        self._memory: _native.DeviceArray = to_gpu(host)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        address = self._memory.__cuda_array_interface__["data"][0] + self._begin  # type: ignore[attr-defined]
        return {"shape": self.shape, "typestr": TYPESTR[self.dtype], "data": (address, False), "version": 3}

    def bytes(self) -> npt.NDArray[np.uint8]:
        """Its bytes; fails if something was written around them."""
        host: npt.NDArray[np.uint8] = to_cpu(self._memory)
        inside = slice(self._begin, self._begin + self._nbytes)
        outside = np.delete(host, np.r_[inside])
        assert (outside == FILL).all(), "a kernel wrote outside of its array"
        return host[inside]
