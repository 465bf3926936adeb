"""The handle of an asynchronous operation."""

from __future__ import annotations

from collections import deque
from typing import Any, Generic, TypeVar

from gradwire import _native
from gradwire.config import Duration, seconds

A = TypeVar("A")


class Work(Generic[A]):
    """What a call with `async_op=True` returns. Dropping it is fine: the operation goes on and keeps its
    arrays.

    result: the array that the operation fills. Its contents are defined once `wait` has returned. Of an array
    on a GPU: for what is put on the current stream from then on; the last kernels may still be under way.

    >>> import gradwire, numpy as np
    >>> comm = gradwire.init(rank=0, size=1)
    >>> work = comm.all_reduce(np.float32([1, 2]), async_op=True)
    >>> work.wait(timeout=10)
    array([1., 2.], dtype=float32)
    >>> work.done()
    True
    """

    __slots__ = ("_keep", "_native", "result")

    def __init__(self, native: _native.Work, result: A, *keep: Any) -> None:
        self._native = native
        self.result: A = result
        self._keep = keep  # further arrays that the operation reads or writes

    def done(self) -> bool:
        """True once the operation has finished, well or not, on the GPU as well. Never blocks."""
        return self._native.done()

    def wait(self, timeout: Duration | None = None) -> A:
        """Block until done and return the array; raise the operation's error if it failed.

        For arrays on a GPU it returns once all is on the GPU's way, and lets the current stream (torch's or
        CuPy's) wait for the rest.
        timeout: seconds or timedelta. When it passes first, Timeout is raised and the operation goes on.
        None: as long as the operation's own deadline lets it run.
        """
        self._native.wait(-1.0 if timeout is None else seconds(timeout))
        if self._native.device >= 0:
            self._native.order(self.result)
        return self.result

    def seconds(self) -> tuple[float, float, float]:
        """When it was submitted, started and finished, on time.monotonic's clock."""
        return self._native.seconds()

    def __repr__(self) -> str:
        return f"<gradwire.Work {'done' if self.done() else 'running'}>"


class InFlight:
    """Keeps the arrays of running operations alive, whatever the caller does with the Work."""

    def __init__(self) -> None:
        self._works: deque[Work[Any]] = deque()
        self._sweep_at = 64

    def add(self, work: Work[Any]) -> None:
        works = self._works
        while works and works[0].done():
            works.popleft()
        works.append(work)
        # A receive that nobody answers may sit in front for long: look behind it, at a cost that stays
        # amortised.
        if len(works) >= self._sweep_at:
            self._works = deque(w for w in works if not w.done())
            self._sweep_at = max(64, 2 * len(self._works))

    def clear(self) -> None:
        self._works.clear()

    def __len__(self) -> int:
        return len(self._works)
