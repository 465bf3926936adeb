"""Arrays in GPU memory of every kind that gradwire takes: bytes in and out, whatever library owns them."""

from __future__ import annotations

import importlib.util
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gradwire import ops
from gradwire.testing import to_cpu, to_gpu

Bytes = npt.NDArray[np.uint8]
TYPESTR = {"float32": "<f4", "float16": "<f2", "bfloat16": "<V2", "uint8": "|u1", "int64": "<i8"}
ITEM = {"float32": 4, "float16": 2, "bfloat16": 2, "uint8": 1, "int64": 8}


class Kind(Protocol):
    """`put` copies bytes to new GPU memory, `refill` to an array that is there, `get` waits for the GPU and
    copies them back."""

    name: str
    dtypes: tuple[str, ...]

    def put(self, host: npt.NDArray[Any], dtype: str) -> Any: ...
    def refill(self, x: Any, host: npt.NDArray[Any]) -> None: ...
    def get(self, x: Any) -> Bytes: ...


class Own:
    """gradwire's own arrays: the only kind on the simulator, and there without torch and CuPy."""

    name = "gradwire"
    dtypes = ("float32", "bfloat16", "float16")

    def put(self, host: npt.NDArray[Any], dtype: str) -> Any:
        return View(to_gpu(as_bytes(host)), dtype)

    def refill(self, x: Any, host: npt.NDArray[Any]) -> None:
        x.memory.copy_from(as_bytes(host))

    def get(self, x: Any) -> Bytes:
        host: Bytes = to_cpu(x.memory)
        return host


class View:
    """Bytes in GPU memory read as `dtype`: NumPy, where they came from, has no bfloat16."""

    def __init__(self, memory: Any, dtype: str) -> None:
        self.memory, self.dtype = memory, dtype
        self.shape = (memory.size // ITEM[dtype],)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        there = self.memory.__cuda_array_interface__
        return {**there, "shape": self.shape, "typestr": TYPESTR[self.dtype]}


class Torch:
    name = "torch"
    dtypes = ("float32", "bfloat16", "float16")

    def put(self, host: npt.NDArray[Any], dtype: str) -> Any:
        import torch

        return torch.from_numpy(as_bytes(host)).cuda().view(getattr(torch, dtype))

    def refill(self, x: Any, host: npt.NDArray[Any]) -> None:
        import torch

        x.view(torch.uint8).copy_(torch.from_numpy(as_bytes(host)))

    def get(self, x: Any) -> Bytes:
        import torch

        host: Bytes = x.reshape(-1).view(torch.uint8).cpu().numpy()
        return host


class Cupy:
    name = "CuPy"
    dtypes = ("float32", "float16")  # NumPy's, so without bfloat16

    def put(self, host: npt.NDArray[Any], dtype: str) -> Any:
        import cupy

        return cupy.asarray(as_bytes(host)).view(dtype)

    def refill(self, x: Any, host: npt.NDArray[Any]) -> None:
        x.view("uint8").set(as_bytes(host))

    def get(self, x: Any) -> Bytes:
        import cupy

        host: Bytes = cupy.asnumpy(x.reshape(-1).view("uint8"))
        return host


def kinds(simulated: bool) -> list[Kind]:
    """Those that can be tried here."""
    found: list[Kind] = [Own()]
    if not simulated:
        found += [kind for kind, module in ((Torch(), "torch"), (Cupy(), "cupy")) if installed(module)]
    return found


def installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def as_bytes(host: npt.NDArray[Any]) -> Bytes:
    return np.ascontiguousarray(host).reshape(-1).view(np.uint8)


def cast(x: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[Any]:
    """x rounded to dtype; bfloat16 as uint16, rounded by the codec bf16, which is that cast."""
    if dtype != "bfloat16":
        return x.astype(dtype)
    rounded: npt.NDArray[Any] = ops.quantize(x, codec="bf16").payload.view(np.uint16)
    return rounded
