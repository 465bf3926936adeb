"""Inputs whose sum has the same bits in every order of adding, for every dtype: small integers.

(The idea is nccl-tests' verifiable.h.) A lossless collective can then be compared bitwise with a reference
that knows nothing of algorithms. bfloat16 arrays are torch tensors, all others NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

try:
    import torch
except ImportError:
    torch = None  # type: ignore[assignment]

DTYPES = ["float32", "float64", "float16", "int32", "int64", "uint8"] + (["bfloat16"] if torch else [])
OPS = ["sum", "avg", "min", "max", "prod"]
FLOATS = ("float32", "float64", "float16", "bfloat16")


def cases() -> list[tuple[str, str]]:
    """Every (dtype, op) that is allowed."""
    return [(dtype, op) for dtype in DTYPES for op in OPS if op != "avg" or dtype in FLOATS]


def values(count: int, op: str, rank: int, dtype: str) -> npt.NDArray[np.int64]:
    """[count] integers for one rank. Up to 8 ranks each partial sum and product is exact even in bfloat16."""
    rng = np.random.default_rng([count, rank, OPS.index(op)])
    if op == "prod":
        drawn = rng.choice([1, 2] if dtype == "uint8" else [-2, -1, 1, 2], count)
    elif dtype == "uint8":
        drawn = rng.integers(0, 32, count)
    else:
        drawn = rng.integers(-16, 17, count)
    return drawn.astype(np.int64)


def array(numbers: npt.NDArray[Any], dtype: str) -> Any:
    """An array of that dtype; bfloat16: a torch tensor."""
    if dtype == "bfloat16":
        return torch.from_numpy(np.asarray(numbers, np.float32)).to(torch.bfloat16)
    return np.asarray(numbers).astype(dtype)


def bits(x: Any) -> bytes:
    """The memory of an array, for comparing replicas."""
    if isinstance(x, np.ndarray):
        return x.tobytes()
    return bytes((x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy().tobytes())


def numbers(x: Any) -> npt.NDArray[Any]:
    """A NumPy array of the same values; bfloat16 widens to float32 exactly."""
    return x if isinstance(x, np.ndarray) else np.asarray(x.float().numpy())
