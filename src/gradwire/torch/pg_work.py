"""What an operation of the "gradwire" process group returns, and how its errors look to torch programs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache
from typing import Any, cast

import torch
import torch.distributed as dist

from gradwire.errors import ArgumentError, GradwireError

from .reaper import Reaper

_BackendError = cast("type[Exception]", dist.DistBackendError)


@cache
def _also_torchs(kind: type[GradwireError]) -> type[GradwireError]:
    both: Any = type(kind.__name__, (kind, _BackendError), {"__module__": kind.__module__})
    return cast("type[GradwireError]", both)


def as_torch_raises(error: GradwireError) -> GradwireError:
    """The same error, which `except RuntimeError` and `except torch.distributed.DistError` catch too."""
    kind = type(error)
    if isinstance(error, _BackendError):
        return error
    same = _also_torchs(cast(Any, kind))(*error.args)
    same.__dict__.update(error.__dict__)
    return same.with_traceback(error.__traceback__)


def refused(message: str) -> GradwireError:
    """The ArgumentError of this package's own checks."""
    return as_torch_raises(ArgumentError(message))


class Work(dist.Work):
    """Operations under way, which fill `outputs`. `finish`, run once by whoever first waits, moves results to
    where the engine could not write them itself: an array with gaps, or of a dtype that it does not know."""

    def __init__(
        self,
        works: Sequence[Any],
        outputs: list[torch.Tensor],
        reaper: Reaper,
        finish: Callable[[], object] | None = None,
    ) -> None:
        super().__init__()
        self._works, self._outputs, self._reaper, self._finish = works, outputs, reaper, finish
        self._lock = threading.Lock()
        self._future: Any = None
        self._error: Exception | None = None

    def wait(self, timeout: timedelta | None = None) -> bool:
        """timeout: None and zero, which C++ callers pass, are no limit beside the operation's own."""
        try:
            for work in self._works:
                if timeout is None or timeout <= timedelta(0):
                    work.wait()
                else:
                    work.wait(timeout)
        except GradwireError as error:
            raise as_torch_raises(error) from None
        if self._finish is not None:
            with self._lock:
                if self._finish is not None:
                    self._finish()
                    self._finish = None
        return True

    def synchronize(self) -> None:
        self.wait()

    def is_completed(self) -> bool:
        return all(w.is_completed() if isinstance(w, dist.Work) else w.done() for w in self._works)

    def is_success(self) -> bool:
        return self.is_completed() and self.exception() is None

    def exception(self) -> Exception | None:
        if self._error is None and self.is_completed():
            try:
                self.wait()
            except Exception as error:
                self._error = error
        return self._error

    def result(self) -> list[torch.Tensor]:
        return self._outputs

    def get_future(self) -> torch.futures.Future[list[torch.Tensor]]:
        """Completed by the group's reaper: this engine's threads never take the GIL."""
        with self._lock:
            if self._future is None:
                self._done: torch.futures.Future[None] = torch.futures.Future()
                # set_exception would hand C++ callers an object they cannot read; what `then` raises is an
                # error there as well.
                self._future = self._done.then(self._value)
                start = True
            else:
                start = False
        if start:
            if self.is_completed():
                self.run()
            else:
                self._reaper.put(self)
        return cast("torch.futures.Future[list[torch.Tensor]]", self._future)

    def run(self) -> None:
        """On the reaper thread."""
        try:
            self.wait()
        except Exception as error:
            self._error = error
        self._done.set_result(None)

    def _value(self, _: object) -> list[torch.Tensor]:
        if self._error is not None:
            raise self._error
        return self._outputs
