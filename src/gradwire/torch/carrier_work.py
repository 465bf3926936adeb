"""What an operation of a `Carrier` returns, and how the errors of its group look."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gradwire.config import Duration, seconds
from gradwire.errors import GradwireError, Timeout

from .device import Host, Moment
from .pg_work import as_torch_raises
from .two_shot import wait_for


@contextmanager
def errors_as_ours() -> Iterator[None]:
    """Of the group; some of its backends know no type but RuntimeError."""
    try:
        yield
    except GradwireError:
        raise
    except RuntimeError as error:
        raise as_torch_raises(GradwireError(f"the carrying group failed: {error}")) from error


class CarriedWork:
    """An operation of a carrier: like `gradwire.Work`. place: where its arrays are."""

    def __init__(self, action: Callable[[], object], turn: threading.Lock, result: Any, place: Host) -> None:
        self.result = result
        self._action, self._turn, self._place = action, turn, place
        self._end = Moment()
        self._over = threading.Event()
        self._error: Exception | None = None

    def run(self) -> None:
        with self._turn:
            self.run_now()

    def run_now(self) -> None:
        """By whoever has the turn."""
        try:
            with errors_as_ours(), self._place.in_line():
                self._action()
                self._end = self._place.moment()
        except Exception as error:
            self._error = error
        self._over.set()

    def done(self) -> bool:
        return self._over.is_set() and self._end.passed()

    def wait(self, timeout: Duration | None = None) -> Any:
        if not self._over.wait(None if timeout is None else seconds(timeout)):
            raise Timeout("the operation is not done yet; it goes on, and can be waited for again")
        if self._error is not None:
            raise self._error
        self._end.wait()
        return self.result


class Passing:
    """A message on its way."""

    def __init__(self, work: Any, result: Any) -> None:
        self._work, self.result = work, result

    def done(self) -> bool:
        return bool(self._work.is_completed())

    def wait(self, timeout: Duration | None = None) -> Any:
        with errors_as_ours():
            wait_for(self._work, None if timeout is None else seconds(timeout))
        return self.result
