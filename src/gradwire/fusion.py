"""Many small arrays in few messages: packed into buckets, reduced there, and copied back.

The rule: every array begins at a multiple of the codec's block and of 64 bytes in its bucket, and buckets
are summed in rank order, so every element is the same sum as if its array had been reduced alone. See
`Communicator.all_reduce_many` for what that means with a lossy codec.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from gradwire import _native
from gradwire.config import Duration, seconds
from gradwire.errors import ArgumentError

A = TypeVar("A")
_LINE_BYTES = 64
_WIDTH = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2, "int32": 4, "int64": 8, "uint8": 1}
Signature = tuple[tuple[int, str], ...]


@dataclass
class Bucket:
    """members: which arrays. offsets: where each begins, in elements. count: of the bucket."""

    dtype: str
    members: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    count: int = 0


def plan(shapes: Signature, block: int, bucket_bytes: int) -> list[Bucket]:
    """First come, first packed, a bucket per dtype at a time; an array larger than a bucket has one of
    its own.

    >>> plan(((10, "float32"), (3, "uint8"), (5, "float32")), block=1, bucket_bytes=1024)[0]
    Bucket(dtype='float32', members=[0, 2], offsets=[0, 16], count=21)
    """
    done: list[Bucket] = []
    filling: dict[str, Bucket] = {}
    for i, (count, dtype) in enumerate(shapes):
        align = max(block, _LINE_BYTES // _WIDTH[dtype])
        bucket = filling.get(dtype)
        start = -(-bucket.count // align) * align if bucket else 0
        if bucket is None or (start + count) * _WIDTH[dtype] > bucket_bytes:
            bucket, start = Bucket(dtype), 0
            filling[dtype] = bucket
            done.append(bucket)
        bucket.members.append(i)
        bucket.offsets.append(start)
        bucket.count = start + count
    return done


class Fused:
    """The buckets of one list of shapes, with their memory; one is in use by at most one call at a time."""

    def __init__(self, shapes: Signature, codec: _native.Codec | None, bucket_bytes: int) -> None:
        if bucket_bytes < 1:
            raise ArgumentError(f"bucket_bytes must be positive, got {bucket_bytes}")
        self.buckets = plan(shapes, codec.block if codec else 1, bucket_bytes)
        # zeros: what lies between two arrays is sent too, and must not be a NaN
        self.memory = [np.zeros(b.count * _WIDTH[b.dtype], np.uint8) for b in self.buckets]

    def pack(self, xs: Sequence[Any]) -> None:
        for bucket, memory in zip(self.buckets, self.memory):
            _native.pack([xs[i] for i in bucket.members], bucket.offsets, memory)

    def unpack(self, xs: Sequence[Any]) -> None:
        for bucket, memory in zip(self.buckets, self.memory):
            _native.unpack(memory, bucket.offsets, [xs[i] for i in bucket.members])


class ManyWork(Generic[A]):
    """What `all_reduce_many` returns with async_op: like `Work`, for the whole list. `wait` must be called,
    and the arrays not be touched until it has returned.
    """

    def __init__(
        self, works: list[_native.Work], result: Sequence[A], fused: Fused, idle: list[Fused]
    ) -> None:
        self.result: Sequence[A] = result
        self._works, self._fused, self._idle = works, fused, idle
        self._waited = False

    def done(self) -> bool:
        """True once everything has arrived; `wait` then returns at once."""
        return all(work.done() for work in self._works)

    def wait(self, timeout: Duration | None = None) -> Sequence[A]:
        """Block until done, put the results into the arrays and return them; raise the error if one
        failed."""
        for work in self._works:
            work.wait(-1.0 if timeout is None else seconds(timeout))
        if not self._waited:
            self._waited = True
            self._fused.unpack(self.result)
            self._idle.append(self._fused)
        return self.result
