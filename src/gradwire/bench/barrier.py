"""A barrier of the benchmark's own, so that no library's barrier colours what is timed.

On one host the ranks spin on a shared page: they leave it within a fraction of a microsecond of one another,
and every library that is compared starts from the same barrier. Across hosts the communicator's own is used.
"""

from __future__ import annotations

import mmap
import os
import secrets
import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from gradwire import Communicator

_LINE = 64  # bytes: one cache line a rank, so that arrivals do not disturb one another
_PATH_BYTES = 64
_TRIES_BEFORE_YIELD = 200  # about 0.1 ms; longer waits mean that another rank has no core just now
_GIVE_UP_S = 300.0


class Barrier:
    def __init__(self, comm: Communicator, crowded: bool) -> None:
        """crowded: ranks outnumber cores, so that spinning keeps others from arriving."""
        self._comm = comm
        self._generation = 0
        self._slots = _shared_slots(comm)
        self._crowded = crowded

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


def _shared_slots(comm: Communicator) -> memoryview | None:
    """A page that all ranks see, as 64-bit numbers; None if they are not on one host.

    Tried, not deduced from host names, which containers and cloned machines share. The page has no name:
    nothing is left behind, however a rank ends.
    """
    nbytes = _LINE * (comm.size + 1)  # the first line tells this page from any other
    token = np.frombuffer(secrets.token_bytes(_LINE), np.uint8)
    offer = np.zeros(_LINE + _PATH_BYTES, np.uint8)
    fd = -1
    if comm.rank == 0:
        fd = os.memfd_create("gradwire-bench")
        os.write(fd, token.tobytes())
        os.ftruncate(fd, nbytes)
        path = f"/proc/{os.getpid()}/fd/{fd}".encode()
        offer[: _LINE + len(path)] = np.concatenate([token, np.frombuffer(path, np.uint8)])
    comm.broadcast(offer, root=0)
    page: mmap.mmap | None = None
    try:
        if comm.rank:
            fd = os.open(offer[_LINE:].tobytes().rstrip(b"\0"), os.O_RDWR)
        page = mmap.mmap(fd, nbytes)
    except (OSError, ValueError):  # another host, another PID namespace, or another user
        pass
    shared = np.array([page is not None and page[:_LINE] == offer[:_LINE].tobytes()], np.uint8)
    comm.all_reduce(shared, op="min")
    if fd >= 0:
        os.close(fd)  # only now: until here the others have been opening rank 0's
    return memoryview(page)[_LINE:].cast("q") if page is not None and shared[0] else None
