"""A barrier of the benchmark's own, so that no library's barrier colours what is timed.

On one host the ranks spin on a shared page: they leave it within a fraction of a microsecond of one another,
and every library that is compared starts from the same barrier. Across hosts the communicator's own is used.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from gradwire import Communicator

_LINE = 64  # bytes: one cache line a rank, so that arrivals do not disturb one another
_PATH_BYTES = 512
_TRIES_BEFORE_YIELD = 20_000  # about 5 ms of Python; longer waits mean that another rank has no core
_GIVE_UP_S = 300.0


class Barrier:
    def __init__(self, comm: Communicator) -> None:
        self._comm = comm
        self._generation = 0
        self._slots: memoryview | None = None
        if len({host for _, host in comm.peers()}) == 1:
            self._share_a_page()

    def _share_a_page(self) -> None:
        comm, nbytes = self._comm, _LINE * self._comm.size
        path = np.zeros(_PATH_BYTES, np.uint8)
        if comm.rank == 0:
            fd, name = tempfile.mkstemp(prefix="gradwire-bench-")
            os.ftruncate(fd, nbytes)
            path[: len(os.fsencode(name))] = np.frombuffer(os.fsencode(name), np.uint8)
        comm.broadcast(path, root=0)
        name = os.fsdecode(path.tobytes().rstrip(b"\0"))
        if comm.rank:
            fd = os.open(name, os.O_RDWR)
        comm.barrier()
        if comm.rank == 0:
            os.unlink(name)  # everyone has it open: nothing is left behind, whatever happens later
        page = mmap.mmap(fd, nbytes)
        os.close(fd)
        self._slots = memoryview(page).cast("q")
        self._crowded = comm.size > len(os.sched_getaffinity(0))

    def wait(self) -> None:
        if self._slots is None:
            self._comm.barrier()
            return
        self._generation += 1
        slots, generation, stride = self._slots, self._generation, _LINE // 8
        slots[self._comm.rank * stride] = generation
        tries, give_up = 0, 0.0
        while min(slots[::stride]) < generation:
            tries += 1
            if self._crowded or tries > _TRIES_BEFORE_YIELD:
                os.sched_yield()
                # A rank that died never arrives. The clock is read only here, off the short path.
                now = time.monotonic()
                give_up = give_up or now + _GIVE_UP_S
                if now > give_up:
                    raise TimeoutError(
                        f"a rank of the benchmark did not reach the barrier in {_GIVE_UP_S:.0f} s"
                    )
