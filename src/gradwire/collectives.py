"""The verbs of a communicator. Arguments are checked by native code, before anything is sent.

Common to all of them:
x: NumPy array, torch tensor, CuPy array, or anything with DLPack, the buffer protocol or
`__cuda_array_interface__`; contiguous; of dtype float32, float64, bfloat16, float16, int32, int64 or uint8;
any shape, the same on every rank. Of arrays on a GPU, all of a call on one (ranks may differ): the operation
runs after what is on the caller's current stream, and what is put there once the call or `Work.wait` has
returned runs after it. The bytes are the CPU's. Raises GpuError if there is no GPU or no CUDA part.
codec: None (the array's own bytes), a name such as "int8", or a `gradwire.codec(...)`. Lossy ones take float
sums and averages only. all_reduce takes "auto" as well: none, bf16 or int8, whichever is predicted to
be fastest; what
was chosen for a count and dtype stays until the next `Communicator.step` after a `use`.
algorithm: "auto" (see `Communicator.explain`) or one of "direct", "ring", "double_tree", ...; the same on
every rank.
async_op: return a `Work` at once; the arrays must not be touched until it is done. Any number may be in
flight.
timeout: seconds or timedelta; None: the communicator's. Raises ArgumentError if an argument is wrong (nothing
was sent), MismatchError if ranks call different things, Timeout, PeerLost or Aborted naming the culprit (the
communicator then needs `reconfigure`), Closed after `close`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal, TypeVar, Union, overload

from gradwire import arrays
from gradwire._native import Communicator as NativeCommunicator
from gradwire._native import Work as NativeWork
from gradwire.codecs import Codec, as_codec
from gradwire.config import Duration, seconds
from gradwire.feedback import pay
from gradwire.fusion import Bucket, Fused, ManyWork
from gradwire.work import InFlight, Work

A = TypeVar("A")
CodecLike = Union[Codec, str, None]
# What codec="auto" may take: no more than 1 % of error at any number of ranks.
_AUTO_CODECS = ("bf16", "int8")
_CLEARLY = 0.8
_TYPICAL = tuple(1 << k for k in range(26, 9, -2))  # bytes


class Collectives:
    """Base of Communicator: moves arrays; knows nothing of how the ranks met."""

    _native: NativeCommunicator
    _in_flight: InFlight
    _choices: dict[tuple[int, str], Codec | None]  # of codec="auto", until the next step
    _codes_from: int  # bytes below which codec="auto" takes none; 0: not known yet
    _fused: dict[Any, list[Fused]]  # idle buckets of all_reduce_many

    def _bind(self, native: NativeCommunicator) -> None:
        self._native = native
        self._in_flight = InFlight()
        self._choices, self._fused, self._codes_from = {}, {}, 0
        # The hot path is a few hundred nanoseconds: bound methods are looked up once.
        self._all_reduce = native.all_reduce
        self._quick_all_reduce = native.quick_all_reduce()

    def empty(self, shape: Sequence[int] | int, dtype: Any = "float32") -> Any:
        """A new array that the other ranks of this host read and write where it lies: collectives on it, or
        on contiguous parts of it, make no copies. The results have the same bits.

        shape: of elements. dtype: anything NumPy takes for float32, float64, float16, int32, int64 or uint8,
        or ml_dtypes.bfloat16: a NumPy array; a torch dtype: a tensor. Not a collective: ranks need not call
        it alike, and it serves every communicator of this process, longer than this one lives. The memory
        goes with the last reference to the array; a child that was forked shares it. If an operation fails,
        its arrays hold nothing of use and are ordinary memory from then on. Between hosts, and with a codec,
        such an array is sent like any other. `stats()["shared_bytes"]` counts. Raises ArgumentError for
        another dtype, MemoryError.

        Gradients can live in one: let every `p.grad` be a view of `comm.empty(n, torch.float32)`, and call
        `zero_grad(set_to_none=False)`; then one all_reduce of the whole averages them in place. (The buckets
        of DistributedDataParallel are its own, and cannot.)

        >>> import gradwire
        >>> def rank(comm):
        ...     x = comm.empty((2, 3), "int32")
        ...     x[:] = comm.rank + 1
        ...     return comm.all_reduce(x)
        >>> gradwire.testing.run_ranks(2, rank)[0]
        array([[3, 3, 3],
               [3, 3, 3]], dtype=int32)
        """
        return arrays.shared(shape, dtype)

    def _submitted(self, native: NativeWork | None, result: A, *keep: Any) -> Work[A]:
        assert native is not None
        work = Work(native, result, *keep)
        self._in_flight.add(work)
        return work

    @overload
    def all_reduce(
        self, x: A, op: str = ..., codec: CodecLike = ..., algorithm: str = ..., residual: Any = ..., *,
        async_op: Literal[False] = ..., timeout: Duration | None = ...,
    ) -> A: ...  # fmt: skip
    @overload
    def all_reduce(
        self, x: A, op: str = ..., codec: CodecLike = ..., algorithm: str = ..., residual: Any = ..., *,
        async_op: Literal[True], timeout: Duration | None = ...,
    ) -> Work[A]: ...  # fmt: skip
    def all_reduce(
        self,
        x: A,
        op: str = "sum",
        codec: CodecLike = None,
        algorithm: str = "auto",
        residual: Any = None,
        *,
        async_op: bool = False,
        timeout: Duration | None = None,
    ) -> A | Work[A]:
        """Combine x over all ranks, in place; every rank ends with the same bits. Returns x, or a Work.

        op: "sum", "avg" (floats), "min", "max" or "prod".
        residual: float32, as many elements as x, for lossy codecs: it is added to x first and overwritten
        with what this rank's encodings lost (error feedback), so that sum of residuals = exact sum - result.

        >>> import gradwire, numpy as np
        >>> def rank(comm):
        ...     return comm.all_reduce(np.float32([comm.rank, 10]))
        >>> gradwire.testing.run_ranks(2, rank)[0]
        array([ 1., 20.], dtype=float32)
        """
        plain = residual is None and timeout is None and algorithm == "auto" and not async_op
        if plain and self._quick_all_reduce(x, op, codec, self._codes_from):
            return x
        if codec == "auto":
            codec = self.auto_codec(x, op)
            if codec is None and plain:
                self._quick_all_reduce(x, op, None, 0)
                return x
            if codec is None and residual is not None:
                pay(x, residual)
                residual = None
        codec = as_codec(codec)
        limit = -1.0 if timeout is None else seconds(timeout)
        if async_op:
            work = self._all_reduce(x, op, codec, algorithm, residual, False, limit)
            return self._submitted(work, x, residual)
        self._all_reduce(x, op, codec, algorithm, residual, True, limit)
        return x

    def auto_codec(self, x: Any, op: str = "sum") -> Codec | None:
        """What codec="auto" takes for an all_reduce of this array: nothing but on links that were measured
        and found slow. The same until `step`.

        >>> import gradwire, numpy as np
        >>> gradwire.testing.run_ranks(2, lambda comm: comm.auto_codec(np.ones(8, np.float32)))
        [None, None]
        """
        if not self._codes_from:
            self._codes_from = self._smallest_coded()
        if getattr(x, "nbytes", self._codes_from) < self._codes_from:
            return None
        count, dtype = shape = arrays.count_and_dtype(x)
        if "float" not in dtype or op not in ("sum", "avg"):
            return None
        if shape not in self._choices:
            self._choices[shape] = self._fastest_codec(count, dtype)
        return self._choices[shape]

    def _smallest_coded(self) -> int:
        """Bytes of float32 from which on a codec is the fastest at every size; more than any if there are
        none."""
        smallest = sys.maxsize
        for nbytes in _TYPICAL:
            if self._fastest_codec(nbytes // 4, "float32") is None:
                break
            smallest = nbytes
        return smallest

    def _fastest_codec(self, count: int, dtype: str) -> Codec | None:
        """Prices are the same on every rank, so the choice is."""
        price = {c: self._cheapest(count, dtype, as_codec(c)) for c in (None, *_AUTO_CODECS)}
        best = min(price, key=lambda c: price[c])
        # A codec must promise more than a prediction may be wrong by: without one nothing is lost, and
        # nothing can be slower than without.
        return as_codec(best) if price[best] < _CLEARLY * price[None] else None

    def _cheapest(self, count: int, dtype: str, codec: Codec | None) -> float:
        return min(c.seconds for c in self._native.candidates(count, dtype, codec) if c.valid)

    @overload
    def all_reduce_many(
        self, xs: Sequence[A], op: str = ..., codec: CodecLike = ..., algorithm: str = ..., *,
        bucket_bytes: int = ..., async_op: Literal[False] = ..., timeout: Duration | None = ...,
    ) -> Sequence[A]: ...  # fmt: skip
    @overload
    def all_reduce_many(
        self, xs: Sequence[A], op: str = ..., codec: CodecLike = ..., algorithm: str = ..., *,
        bucket_bytes: int = ..., async_op: Literal[True], timeout: Duration | None = ...,
    ) -> ManyWork[A]: ...  # fmt: skip
    def all_reduce_many(
        self,
        xs: Sequence[A],
        op: str = "sum",
        codec: CodecLike = None,
        algorithm: str = "auto",
        *,
        bucket_bytes: int = 4 << 20,
        async_op: bool = False,
        timeout: Duration | None = None,
    ) -> Sequence[A] | ManyWork[A]:
        """Combine each of many arrays over all ranks, in place, in few messages. Returns xs, or a Work of it.

        xs: arrays of any shapes and dtypes, the same list on every rank. bucket_bytes: sent as one.
        Without a lossy codec results have the same bits as if every array had been reduced alone, by
        algorithm "direct"; "auto" takes none that adds in another order. With one they do if algorithm is
        "one_shot" and the codec's blocks are encoded independently: elsewhere who owns an element, and adds
        its own value unencoded, depends on where it lies.
        With async_op the results are in place once `wait` has returned.

        >>> import gradwire, numpy as np
        >>> def rank(comm):
        ...     return comm.all_reduce_many([np.float32([comm.rank, 1]), np.int64([3])])
        >>> gradwire.testing.run_ranks(2, rank)[0]
        [array([1., 2.], dtype=float32), array([6])]
        """
        made = as_codec(codec)
        shapes = tuple(arrays.count_and_dtype(x) for x in xs)
        key = (shapes, made, bucket_bytes)
        idle = self._fused.setdefault(key, [])
        fused = idle.pop() if idle else Fused(shapes, made, bucket_bytes)
        limit = -1.0 if timeout is None else seconds(timeout)
        fused.pack(xs)
        works = []
        for bucket, memory in zip(fused.buckets, fused.memory):
            taken = self._in_rank_order(bucket, made) if algorithm == "auto" else algorithm
            sent = made if "float" in bucket.dtype else None
            works.append(
                self._native.all_reduce_as(
                    memory, bucket.count, bucket.dtype, op, sent, taken, not async_op, limit
                )
            )
        if not async_op:
            fused.unpack(xs)
            idle.append(fused)
            return xs
        return ManyWork([w for w in works if w is not None], xs, fused, idle)

    def _in_rank_order(self, bucket: Bucket, codec: Codec | None) -> str:
        """The cheapest algorithm that sums in rank order."""
        if codec is not None and codec.lossy:
            return "direct"
        for c in self._native.candidates(bucket.count, bucket.dtype, codec):
            if c.valid and c.nested_sums <= 1:
                return c.algorithm
        return "direct"

    def reduce_scatter(
        self,
        x: Any,
        out: Any = None,
        op: str = "sum",
        codec: CodecLike = None,
        algorithm: str = "auto",
        *,
        residual: Any = None,
        async_op: bool = False,
        timeout: Duration | None = None,
    ) -> Any:
        """Combine x over all ranks and give each rank its share: rank r gets the r-th of `size` equal parts.

        x: size * n elements. out: n elements; made if None: [x.shape[0] / size, ...], or flat if that does
        not divide. op, residual (as many elements as x): as in all_reduce. Returns out, or a Work.

        >>> import gradwire, numpy as np
        >>> gradwire.testing.run_ranks(2, lambda comm: comm.reduce_scatter(np.float32([1, 2, 3, 4])))
        [array([2., 4.], dtype=float32), array([6., 8.], dtype=float32)]
        """
        if out is None:
            out = arrays.share_like(x, self._native.size)
        limit = -1.0 if timeout is None else seconds(timeout)
        work = self._native.reduce_scatter(
            x, out, op, as_codec(codec), algorithm, residual, not async_op, limit
        )
        return self._submitted(work, out, x, residual) if async_op else out

    def all_gather(
        self,
        x: Any,
        out: Any = None,
        codec: CodecLike = None,
        algorithm: str = "auto",
        *,
        async_op: bool = False,
        timeout: Duration | None = None,
    ) -> Any:
        """Collect every rank's x on every rank, in rank order.

        out: size * x.size elements; made if None: [size, *x.shape]. Returns out, or a Work.

        >>> import gradwire, numpy as np
        >>> gradwire.testing.run_ranks(2, lambda comm: comm.all_gather(np.int32([comm.rank, 7])))[1]
        array([[0, 7],
               [1, 7]], dtype=int32)
        """
        if out is None:
            out = arrays.gathered_like(x, self._native.size)
        limit = -1.0 if timeout is None else seconds(timeout)
        work = self._native.all_gather(x, out, as_codec(codec), algorithm, not async_op, limit)
        return self._submitted(work, out, x) if async_op else out

    def broadcast(
        self,
        x: Any,
        root: int = 0,
        codec: CodecLike = None,
        algorithm: str = "auto",
        *,
        async_op: bool = False,
        timeout: Duration | None = None,
    ) -> Any:
        """Overwrite x with root's x. With a lossy codec root, too, ends with what the others decode. Returns
        x, or a Work.

        >>> import gradwire, numpy as np
        >>> gradwire.testing.run_ranks(2, lambda comm: comm.broadcast(np.int64([comm.rank]), root=1))
        [array([1]), array([1])]
        """
        limit = -1.0 if timeout is None else seconds(timeout)
        work = self._native.broadcast(x, root, as_codec(codec), algorithm, not async_op, limit)
        return self._submitted(work, x) if async_op else x

    def all_to_all(
        self,
        x: Any,
        out: Any = None,
        codec: CodecLike = None,
        async_op: bool = False,
        timeout: Duration | None = None,
    ) -> Any:
        """Send the r-th of `size` equal parts of x to rank r; out's s-th part comes from rank s.

        x, out: the same number of elements, a multiple of size. out is made like x if None. Returns out, or a
        Work.

        >>> import gradwire, numpy as np
        >>> gradwire.testing.run_ranks(2, lambda comm: comm.all_to_all(np.int32([10, 20]) + comm.rank))
        [array([10, 11], dtype=int32), array([20, 21], dtype=int32)]
        """
        if out is None:
            out = arrays.empty_like(x)
        limit = -1.0 if timeout is None else seconds(timeout)
        work = self._native.all_to_all(x, out, as_codec(codec), not async_op, limit)
        return self._submitted(work, out, x) if async_op else out

    def send(
        self, x: Any, dst: int, tag: int = 0, async_op: bool = False, timeout: Duration | None = None
    ) -> Any:
        """Send x to rank dst, which must call `recv` with the same count, dtype and tag. Returns x, or a
        Work.

        Messages between two ranks arrive in the order sent. Returns once x may be reused, which for a large x
        needs the receiver: two ranks that both send first should use async_op.

        >>> import gradwire, numpy as np
        >>> def rank(comm):
        ...     x = np.full(2, comm.rank, np.uint8)
        ...     return comm.send(x, dst=1) if comm.rank == 0 else comm.recv(x, src=0)
        >>> gradwire.testing.run_ranks(2, rank)[1]
        array([0, 0], dtype=uint8)
        """
        limit = -1.0 if timeout is None else seconds(timeout)
        work = self._native.send(x, dst, tag, not async_op, limit)
        return self._submitted(work, x) if async_op else x

    def recv(
        self, x: Any, src: int, tag: int = 0, async_op: bool = False, timeout: Duration | None = None
    ) -> Any:
        """Overwrite x with what rank src sends (see `send`). Returns x, or a Work."""
        limit = -1.0 if timeout is None else seconds(timeout)
        work = self._native.recv(x, src, tag, not async_op, limit)
        return self._submitted(work, x) if async_op else x

    @overload
    def barrier(self, async_op: Literal[False] = ..., timeout: Duration | None = ...) -> None: ...
    @overload
    def barrier(self, async_op: Literal[True], timeout: Duration | None = ...) -> Work[None]: ...
    def barrier(self, async_op: bool = False, timeout: Duration | None = None) -> Work[None] | None:
        """Return once every rank has called it.

        >>> import gradwire
        >>> _ = gradwire.testing.run_ranks(3, lambda comm: comm.barrier(timeout=10))
        """
        limit = -1.0 if timeout is None else seconds(timeout)
        work = self._native.barrier(not async_op, limit)
        return self._submitted(work, None) if async_op else None
