"""What the checks of the "gradwire" backend share: a Gloo group of the same ranks beside it, and values.

They are small whole numbers, whose sums are exact in every dtype, so that results must be equal bit for bit.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from scene import Scene

GLOO_DTYPES = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
    *(torch.int8, torch.uint8, torch.int32, torch.int64),
)
FURTHER_DTYPES = (
    *(torch.int16, torch.uint16, torch.uint32, torch.uint64),
    *(torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2),
)
ALL_DTYPES = (*GLOO_DTYPES, *FURTHER_DTYPES, torch.bool)
Op = dist.ReduceOp


@functools.cache
def gloo() -> Any:
    return dist.new_group(backend="gloo")


def ints_of(
    rank: int, shape: Any = (5, 3), dtype: torch.dtype = torch.float32, seed: int = 0
) -> torch.Tensor:
    g = torch.Generator().manual_seed(1000 * seed + rank)
    return torch.randint(0, 3, shape, generator=g).to(dtype)


def ints(scene: Scene, shape: Any = (5, 3), dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    return ints_of(scene.rank, shape, dtype, seed)


def same(a: Any, b: Any) -> None:
    if isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            same(x, y)
        return
    assert a.dtype == b.dtype and a.shape == b.shape, (a.dtype, b.dtype, a.shape, b.shape)
    if not torch.equal(bits(a), bits(b)):
        raise AssertionError(f"{a}\nis not\n{b}")


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.resolve_conj().contiguous().reshape(-1).view(torch.uint8)


def layouts(x: torch.Tensor) -> Iterator[torch.Tensor]:
    """The values of x: contiguous, transposed, with gaps, of no dimension, empty."""
    yield x.clone()
    yield x.clone().t().contiguous().t()
    gaps = torch.zeros(2 * x.shape[0], 2 * x.shape[1], dtype=x.dtype)
    gaps[::2, ::2] = x
    yield gaps[::2, ::2]
    yield x[0, 0].clone()
    yield x[:0].clone()
