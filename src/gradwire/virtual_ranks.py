"""Ranks that are all on one GPU, and all_reduce among them by the kernels that ranks on several GPUs run."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, TypeVar

from gradwire import _native
from gradwire.codecs import Codec, as_codec
from gradwire.errors import ArgumentError, Closed

__all__ = ["Replay", "VirtualRanks", "virtual_ranks"]

A = TypeVar("A")


class VirtualRanks:
    """`size` ranks on GPU `device` of this process; made by `gradwire.testing.virtual_ranks`.

    size, device, mode: as asked for. A context manager: the end of the block closes it.

    >>> import gradwire
    >>> gradwire.testing.VirtualRanks.__name__
    'VirtualRanks'
    """

    def __init__(self, n: int, device: int = 0, mode: str = "one_launch") -> None:
        if mode not in ("one_launch", "streams"):
            raise ArgumentError(f'mode must be "one_launch" or "streams", got {mode!r}')
        self._peers: _native.Peers | None = _native.gpu.Peers(device, n)
        self.size, self.device, self.mode = n, device, mode
        self._stream = 0

    def __enter__(self) -> VirtualRanks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Wait for the GPU and give the memory back. A second call does nothing.

        >>> import gradwire
        >>> try:
        ...     gradwire.testing.virtual_ranks(2).close()
        ... except gradwire.GpuError:
        ...     pass
        """
        if self._peers is not None:
            self._peers.synchronize(self._stream)
            self._peers = None

    @property
    def seq(self) -> int:
        """The number of the next all_reduce: the step of its codec's random numbers, as in a Communicator."""
        return self._open().seq

    def all_reduce(
        self,
        arrays: Sequence[A],
        op: str = "sum",
        algorithm: str = "auto",
        codec: Codec | str | None = None,
        *,
        residuals: Sequence[Any] = (),
        wait: bool = True,
        timeout: float = 10.0,
    ) -> Sequence[A]:
        """Combine arrays[r] of all ranks r, in place. Returns arrays.

        All ranks end with the same bits: those of a Communicator of as many ranks with the same algorithm and
        codec.

        arrays: `size` GPU arrays of one shape and dtype (float32, bfloat16 or float16; sums are made in
        float32): CuPy, torch, or anything else with `__cuda_array_interface__`. op: "sum", "avg", "min",
        "max", "prod"; with a lossy codec "sum" or "avg". algorithm: "one_shot", "direct" (two-shot), "ring",
        "double_tree" or another that works inside one host; "auto" goes by the size. codec: None, or one
        whose blocks hold up to 256 values (casts, quantisers, fp8, mx). residuals: float32, one a rank, for
        lossy codecs: error feedback.

        The work is put on the arrays' current stream. wait: until it is done; False: return at once, errors
        come from `synchronize`. The first call of a shape and algorithm allocates; later ones do not, and may
        be captured into a CUDA graph. timeout: seconds that a rank may wait for one signal of another.

        Raises ArgumentError for bad input; Timeout, with the culprit as `rank`, if a rank did not answer;
        GpuError without a GPU.

        >>> import gradwire, numpy as np
        >>> from gradwire.testing import to_cpu, to_gpu, virtual_ranks
        >>> try:
        ...     with virtual_ranks(2) as ranks:
        ...         x = ranks.all_reduce([to_gpu(np.float32([1, 2])), to_gpu(np.float32([3, 4]))])
        ...         total = to_cpu(x[0])
        ... except gradwire.GpuError:
        ...     total = np.float32([4, 6])
        >>> total
        array([4., 6.], dtype=float32)
        """
        peers = self._open()
        call = (arrays, op, as_codec(codec), algorithm, residuals, timeout)
        peers.all_reduce(*call, self.mode == "streams", self._silent)
        if wait:
            self.synchronize()
        return arrays

    def record(
        self,
        arrays: Sequence[Any],
        op: str = "sum",
        algorithm: str = "auto",
        codec: Codec | str | None = None,
        *,
        residuals: Sequence[Any] = (),
        timeout: float = 10.0,
    ) -> Replay:
        """Record an `all_reduce` of these arguments into a CUDA graph, without doing it.

        In one launch, whatever the mode. Returns a Replay, which does it as often as it is called. A codec
        that draws random numbers draws the same in every replay.

        >>> import gradwire, numpy as np
        >>> from gradwire.testing import to_cpu, to_gpu, virtual_ranks
        >>> try:
        ...     with virtual_ranks(2) as ranks:
        ...         x = [to_gpu(np.float32([1])), to_gpu(np.float32([1]))]
        ...         replay = ranks.record(x)
        ...         for _ in range(3):
        ...             replay()
        ...         total = to_cpu(x[0])
        ... except gradwire.GpuError:
        ...     total = np.float32([8])
        >>> total
        array([8.], dtype=float32)
        """
        peers = self._open()
        return Replay(
            self,
            peers.record(arrays, op, as_codec(codec), algorithm, residuals, timeout),
            (arrays, residuals),
        )

    def synchronize(self) -> None:
        """Wait for all all_reduces; raise Timeout, with the culprit as `rank`, if one did not answer.

        >>> import gradwire
        >>> try:
        ...     gradwire.testing.virtual_ranks(2).synchronize()
        ... except gradwire.GpuError:
        ...     pass
        """
        self._open().synchronize(self._stream)

    _silent: Sequence[int] = ()  # tests: ranks that are not launched

    def _open(self) -> _native.Peers:
        if self._peers is None:
            raise Closed("these virtual ranks were closed before")
        return self._peers


class Replay:
    """A recorded all_reduce of VirtualRanks; keeps its arrays alive. Calling it does it once more.

    >>> import gradwire
    >>> gradwire.testing.Replay.__name__
    'Replay'
    """

    def __init__(self, ranks: VirtualRanks, graph: _native.Graph, memory: Any) -> None:
        self._ranks, self._graph, self._memory = ranks, graph, memory

    def __call__(self, wait: bool = True) -> None:
        """Put it on the default stream; wait: as in `all_reduce`."""
        self._graph.launch()
        if wait:
            self._ranks.synchronize()


def virtual_ranks(n: int, device: int = 0, mode: str = "one_launch") -> VirtualRanks:
    """`n` ranks (1 to 16) on one GPU: the collectives of peer memory with a single card.

    For tests and benchmarks. mode: "one_launch": all ranks are one cooperative launch, which fails instead of
    hanging if the GPU cannot run them at once; "streams": each rank is a launch on a stream of its own. Both
    run the same kernels and give the same bytes. Raises ArgumentError for another n or mode, GpuError without
    a GPU.

    >>> import gradwire
    >>> try:
    ...     size = gradwire.testing.virtual_ranks(4).size
    ... except gradwire.GpuError:
    ...     size = 4
    >>> size
    4
    """
    return VirtualRanks(n, device, mode)
