"""The only Python file that knows array kinds: what comes out is of the kind that went in.

Native code reads and writes any array by itself; Python is needed only where a new one has to be made.
torch and CuPy are looked up among the modules already loaded, never imported: who passes an array has
imported them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradwire import _native
from gradwire.errors import ArgumentError

_ITEM_BYTES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2, "int32": 4, "int64": 8, "uint8": 1}


def is_torch(x: Any) -> bool:
    torch = sys.modules.get("torch")
    # A half-imported torch (a thread still importing it) has no Tensor yet, so x is not one.
    tensor = getattr(torch, "Tensor", None)
    return tensor is not None and isinstance(x, tensor)


def _is_cupy(x: Any) -> bool:
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(x, cupy.ndarray)


def on_gpu(x: Any) -> bool:
    """In GPU memory: a CUDA tensor, a CuPy array, or whatever else has `__cuda_array_interface__`."""
    if is_torch(x):
        return bool(x.is_cuda)
    return hasattr(x, "__cuda_array_interface__")


def kernels(x: Any) -> Any:
    """The native functions for arrays where x is: `_native`, or `_native.gpu`, which has the same names."""
    return _native.gpu if on_gpu(x) else _native


def count_and_dtype(x: Any) -> tuple[int, str]:
    """Elements and dtype name of any array; ArgumentError if it is not usable."""
    _, count, dtype = _native.array_info(x)
    return count, dtype


def shape_of(x: Any) -> tuple[int, ...]:
    shape = getattr(x, "shape", None)
    if shape is None:
        return tuple(memoryview(x).shape or ())  # bytearray, array.array and the like
    return tuple(int(n) for n in shape)


def empty(like: Any, shape: Sequence[int] | int, dtype: str) -> Any:
    """A new array of the kind of `like`, on its device: torch for torch, CuPy for CuPy, for other GPU arrays
    `_native.gpu.DeviceArray`, else NumPy.

    NumPy has no bfloat16 of its own: it is taken from `like`'s dtype if that is one (ml_dtypes), else
    float32, which holds every bfloat16 exactly.
    """
    if is_torch(like):
        torch = sys.modules["torch"]
        return torch.empty(shape, dtype=getattr(torch, dtype), device=like.device)
    if on_gpu(like):
        return _empty_on_gpu(like, (shape,) if isinstance(shape, int) else tuple(shape), dtype)
    if dtype == "bfloat16":
        own = getattr(like, "dtype", None)
        return np.empty(shape, own if str(own) == "bfloat16" else np.float32)
    return np.empty(shape, dtype)


def _empty_on_gpu(like: Any, shape: tuple[int, ...], dtype: str) -> Any:
    if _is_cupy(like) and dtype != "bfloat16":
        with like.device:
            return sys.modules["cupy"].empty(shape, dtype)
    return _native.gpu.DeviceArray(shape, dtype, getattr(like, "device", 0))


def place(x: Any) -> tuple[str, int] | None:
    """Where `empty` puts an array like x: None is host memory, else the kind of array and the GPU's
    number."""
    if not on_gpu(x):
        return None
    device = x.device.index if is_torch(x) else getattr(x, "device", 0)
    return ("torch" if is_torch(x) else "CuPy" if _is_cupy(x) else "other"), int(device)


def zeros(like: Any, count: int, dtype: str) -> Any:
    """`empty`, flat, and cleared; in host memory of NumPy. On a GPU in the order of the current stream, as is
    what follows."""
    if not on_gpu(like):
        return np.zeros(count, dtype)
    made = empty(like, count, dtype)
    clear(made)
    return made


def clear(x: Any) -> None:
    if on_gpu(x):
        _native.gpu.clear(x)
    else:
        x[...] = 0


def copy(target: Any, source: Any) -> None:
    """Between flat arrays of one dtype and count, wherever they are."""
    if on_gpu(target) or on_gpu(source):
        _native.gpu.copy(target, source)
    else:
        target[...] = source


def put(x: Any, places: Any, values: Any, *, add: bool = False) -> None:
    """x[places] = values, or += values: x flat float32, wherever it is; places int64, each once, and values
    float32 in host memory."""
    if on_gpu(x):
        there = empty(x, places.size, "int64"), empty(x, values.size, "float32")
        copy(there[0], places)
        copy(there[1], values)
        _native.gpu.scatter(there[1], there[0], x, add)
    elif add:
        x[places] += values
    else:
        x[places] = values


def square_sum(x: Any) -> float:
    """Of float32, in float64; waits for a GPU."""
    if is_torch(x):
        return float(sys.modules["torch"].linalg.vector_norm(x, dtype=sys.modules["torch"].float64)) ** 2
    if on_gpu(x):
        here = np.empty(count_and_dtype(x)[0], np.float32)
        copy(here, x)
        x = here
    return float(np.square(x, dtype=np.float64).sum())


def shared(shape: Sequence[int] | int, dtype: Any) -> Any:
    """A new array in memory that ranks of this host can map: torch for a torch dtype, else NumPy."""
    torch = sys.modules.get("torch")
    of_torch = isinstance(dtype, getattr(torch, "dtype", ()))
    if not of_torch:
        if isinstance(dtype, str) and dtype == "bfloat16":
            raise ArgumentError("NumPy has no bfloat16 of its own: pass torch.bfloat16 or ml_dtypes.bfloat16")
        dtype = np.dtype(dtype)
    name = str(dtype).split(".")[-1]
    if name not in _ITEM_BYTES:
        raise ArgumentError(f"dtype not supported: {dtype}; expected one of {', '.join(_ITEM_BYTES)}")
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if any(n < 0 for n in sizes):
        raise ArgumentError(f"no dimension can be negative, got shape {sizes}")
    count = math.prod(sizes)
    if count == 0:
        return torch.empty(sizes, dtype=dtype) if of_torch and torch else np.empty(sizes, dtype)
    block: Any = _native.SharedBlock(count * _ITEM_BYTES[name])
    if of_torch and torch:
        return torch.frombuffer(block, dtype=dtype).reshape(sizes)
    return np.frombuffer(block, np.uint8).view(dtype).reshape(sizes)


def is_shared(x: Any) -> bool:
    """All of x lies in memory that ranks of this host can map."""
    address, _, _ = _native.array_info(x)
    return _native.is_shared(address, nbytes(x))


def empty_like(x: Any, shape: Sequence[int] | int | None = None) -> Any:
    count, dtype = count_and_dtype(x)
    if shape is None:
        shape = shape_of(x) if count else (0,)
    return empty(x, shape, dtype)


def gathered_like(x: Any, size: int) -> Any:
    """[size, *x.shape]: one slice per rank."""
    return empty_like(x, (size, *shape_of(x)))


def share_like(x: Any, size: int) -> Any:
    """One rank's share of x: [n / size, ...] if the first dimension divides, else flat."""
    count, _ = count_and_dtype(x)
    if count % size:
        raise ArgumentError(
            f"reduce_scatter gives every rank an equal share, but {count} elements do not divide by "
            f"{size} ranks: pad x to a multiple of {size}"
        )
    shape = shape_of(x)
    if shape and shape[0] % size == 0:
        return empty_like(x, (shape[0] // size, *shape[1:]))
    return empty_like(x, (count // size,))


def nbytes(x: Any) -> int:
    count, dtype = count_and_dtype(x)
    return count * _ITEM_BYTES[dtype]
