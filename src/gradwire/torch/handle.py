"""What stays in the user's hand while gradients are averaged: figures, checkpoints, traces, and the end."""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

import gradwire
from gradwire.communicator import Communicator
from gradwire.errors import ArgumentError

from . import trace as chrome
from .groups import new_communicator
from .private import default_group
from .state import GradientState
from .stats import Stats

_open_handles: weakref.WeakSet[Handle] = weakref.WeakSet()


class Handle:
    """Base of what `attach` returns and of `GradientBucketer`. Also a context manager that closes."""

    def __init__(self, state: GradientState, owns_comm: bool) -> None:
        if state.rules.wants_prices and not state.comm.measured:
            state.comm.use("auto")
        self.state = state
        self._owns_comm = owns_comm
        self._closed = False
        _open_handles.add(self)

    @property
    def comm(self) -> Communicator:
        return self.state.comm

    def stats(self) -> Stats:
        return self.state.stats()

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.state.state_dict()

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.state.load_state_dict(state)

    def flush(self) -> None:
        """With overlap="next-batch", after the last step: puts its averages into `grad`, for one more
        `optimizer.step()`. Otherwise there is nothing to do."""
        self.state.flush()

    @contextmanager
    def trace(self, path: str | os.PathLike[str]) -> Iterator[chrome.HookTrace]:
        """Writes a Chrome trace of the steps inside the block: one file a rank.

        >>> with handle.trace(f"rank{rank}.json"):  # doctest: +SKIP
        ...     train(steps=3)
        """
        recorded = chrome.HookTrace()
        self.comm.trace_start()
        self.state.trace = recorded
        try:
            with self._watch(recorded):
                yield recorded
        finally:
            self.state.trace = None
            chrome.write(path, recorded, self.comm.trace_stop(), self.comm.rank)

    @contextmanager
    def _watch(self, recorded: chrome.HookTrace) -> Iterator[None]:
        """Tells the trace when a backward begins, for as long as the block lasts."""
        yield

    def close(self) -> None:
        """Frees the thread and, if it was not given, the communicator. A later backward raises an error."""
        if self._closed:
            return
        self._closed = True
        if self._owns_comm:
            self.comm.close()  # first: it ends operations that a lost peer would keep waiting
        self.state.close()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def communicator_for(
    comm: Communicator | None, group: dist.ProcessGroup | None, settings: dict[str, Any]
) -> Iterator[tuple[Communicator, bool]]:
    """(the given one, else one over the group's ranks; whether it was made here, and is closed if the block
    raises). settings: of `gradwire.init`."""
    if comm is not None:
        if settings:
            raise ArgumentError(
                f"{sorted(settings)} are for a communicator that is made here, but comm= was given"
            )
        yield comm, False
        return
    if group is None and not dist.is_initialized():
        made = gradwire.init(**settings)
    else:
        made = new_communicator(group if group is not None else default_group(), **settings)
    try:
        yield made, True
    except BaseException:
        made.close()
        raise


@atexit.register
def _close_all() -> None:
    # Before the interpreter goes: a native thread must not outlive it.
    for handle in list(_open_handles):
        handle.close()
