"""Completes DDP's futures from a thread of its own, so that the backward thread never waits for a bucket.

Network, encode and decode run in native threads. This one sleeps in the native wait with the GIL released
and needs the GIL only to copy a few dense elements back and set the result, in the order the buckets were
submitted (DDP waits for them in that order, too).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import torch


class Waitable(Protocol):
    """gradwire's Work, or torch.distributed's for what passes through."""

    def wait(self) -> object: ...


class Awaited(Protocol):
    """What a reaper takes: `run` waits, completes a future, and does not raise."""

    def run(self) -> None: ...


class Place(Protocol):
    """Where the bucket lies: see `device.Host`."""

    def in_line(self) -> AbstractContextManager[None]: ...
    def future(self) -> torch.futures.Future[torch.Tensor]: ...
    def wait(self, work: Waitable) -> None: ...


class Pending:
    """One bucket on its way. `finish` (it must not raise) is called on the reaper thread with the first
    error or None."""

    def __init__(
        self, result: torch.Tensor, place: Place, finish: Callable[[Pending, Exception | None], None]
    ) -> None:
        self.future = place.future()
        self.result, self.place = result, place
        self.works: list[Waitable] = []
        self.error: Exception | None = None  # an operation that could not even be submitted
        # called on the reaper thread: operations that must not be issued from the backward thread
        self.submit: Callable[[], object] = lambda: None
        # what is left to do on `result` once the works are done
        self.unpack: Callable[[], object] = lambda: None
        self._finish = finish

    def run(self) -> None:
        with self.place.in_line():
            self._run()

    def _run(self) -> None:
        error = self.error
        try:
            self.submit()
        except Exception as e:
            error = error or e
        for work in self.works:  # all of them, error or not: the arrays must outlive every operation on them
            try:
                self.place.wait(work)
            except Exception as e:
                error = error or e
        self._finish(self, error)
        # Always a result, never set_exception: DDP would turn that into an untyped "unable to cast". An
        # incomplete future would block backward() for ever.
        self.future.set_result(self.result)


class Reaper:
    """One thread, started by the first bucket. What that thread itself hands over, from a callback on a
    future that it completed, goes to a second one: the callback may wait for it."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Awaited | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._inner: Reaper | None = None

    def put(self, pending: Awaited) -> None:
        if self._thread is None:
            self._thread = threading.Thread(
                target=_reap, args=(self._queue,), name="gradwire-reaper", daemon=True
            )
            self._thread.start()
        elif self._thread is threading.current_thread():
            self._inner = self._inner or Reaper()
            self._inner.put(pending)
            return
        self._queue.put(pending)

    def close(self) -> None:
        """After this every future handed over is complete. Call it before the communicator is freed."""
        if self._thread is not None:
            self._queue.put(None)
            if self._thread is not threading.current_thread():
                self._thread.join()
            self._thread = None
        if self._inner is not None:
            self._inner.close()


def _reap(pendings: queue.SimpleQueue[Awaited | None]) -> None:
    # A function of the queue alone: the thread keeps neither the hook's state nor the last bucket alive
    # while it sleeps.
    while True:
        pending = pendings.get()
        if pending is None:
            return
        pending.run()
        del pending
