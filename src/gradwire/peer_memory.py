"""all_reduce between the processes of one host through GPU memory that they map."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gradwire import _native
from gradwire.codecs import Codec, as_codec
from gradwire.communicator import Communicator
from gradwire.errors import ArgumentError

__all__ = ["PeerMemory"]

A = TypeVar("A")


class PeerMemory:
    """all_reduce between processes of one host by GPU memory that they share (CUDA IPC).

    comm: all of its ranks make this object together, and then the same calls in the same order. device: the
    GPU of this rank's arrays. Ranks may share a GPU, which then gives each of them a slice of time: good for
    tests alone. `gradwire.init(gpu_peers=True)` lets `comm.all_reduce` do the same by itself; this class is
    for CUDA graphs and for calls that return before the GPU is done. Raises ArgumentError if the ranks are on
    several hosts.

    >>> import gradwire, numpy as np
    >>> from gradwire.testing import to_cpu, to_gpu
    >>> with gradwire.init(rank=0, size=1) as comm:
    ...     try:
    ...         peers = gradwire.PeerMemory(comm)
    ...         x = to_cpu(peers.all_reduce(to_gpu(np.float32([1, 2]))))
    ...     except gradwire.GpuError:
    ...         x = np.float32([1, 2])
    >>> x
    array([1., 2.], dtype=float32)
    """

    def __init__(self, comm: Communicator, device: int = 0) -> None:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
        hosts = comm.all_gather(np.frombuffer(boot, np.uint8))
        if (hosts != hosts[0]).any():
            raise ArgumentError("PeerMemory is for ranks of one host, got ranks on several")
        self._comm = comm
        self._peers = _native.gpu.HostPeers(device, comm.rank, comm.size)

    def all_reduce(
        self,
        x: A,
        op: str = "sum",
        algorithm: str = "auto",
        codec: Codec | str | None = None,
        *,
        residual: Any = None,
        wait: bool = True,
        timeout: float = 10.0,
    ) -> A:
        """Combine x over all ranks, in place, with the bits of `comm.all_reduce` of this algorithm and codec.

        Arguments, order on the stream and errors as for `gradwire.testing.VirtualRanks.all_reduce`, of which
        this is one rank's part. The first call of a shape that needs more memory than there is meets the
        other ranks over `comm`; those after it may be captured into a CUDA graph. After a Timeout make a new
        PeerMemory.

        >>> import gradwire
        >>> gradwire.PeerMemory.all_reduce.__name__
        'all_reduce'
        """
        call = (x, op, as_codec(codec), algorithm, () if residual is None else (residual,), timeout)
        if not self._peers.ready(*call):
            mine = np.frombuffer(self._peers.grow(), np.uint8)
            self._peers.connect(self._comm.all_gather(mine).tobytes())
        self._peers.all_reduce(*call)
        if wait:
            self.synchronize()
        return x

    def synchronize(self) -> None:
        """Wait for all all_reduces; raise Timeout if a peer did not answer in one.

        >>> import gradwire
        >>> gradwire.PeerMemory.synchronize.__name__
        'synchronize'
        """
        self._peers.synchronize()
