"""The one line: `handle = gradwire.torch.attach(ddp, codec="int8")`."""

from __future__ import annotations

import atexit
import os
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from gradwire.communicator import Communicator
from gradwire.errors import ArgumentError

from . import trace as chrome
from .groups import new_communicator
from .hook import all_reduce_hook
from .state import CodecChoice, HookState
from .stats import Stats

_open_handles: weakref.WeakSet[Handle] = weakref.WeakSet()


class Handle:
    """What `attach` returns: figures, checkpoints, traces, and the end. Also a context manager."""

    def __init__(self, ddp: DistributedDataParallel, state: HookState, owns_comm: bool) -> None:
        self.state = state
        self._owns_comm = owns_comm
        self._closed = False
        self._ddp = weakref.ref(ddp)
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

    @contextmanager
    def trace(self, path: str | os.PathLike[str]) -> Iterator[chrome.HookTrace]:
        """Writes a Chrome trace of the steps inside the block: one file a rank.

        >>> with handle.trace(f"rank{rank}.json"):  # doctest: +SKIP
        ...     train(steps=3)
        """
        recorded = chrome.HookTrace()
        ddp = self._ddp()
        watch = None
        if ddp is not None:
            watch = ddp.register_forward_hook(lambda *_: recorded.backward_begins(time.monotonic()))
        self.comm.trace_start()
        self.state.trace = recorded
        try:
            yield recorded
        finally:
            self.state.trace = None
            if watch is not None:
                watch.remove()
            chrome.write(path, recorded, self.comm.trace_stop(), self.comm.rank)

    def close(self) -> None:
        """Frees the thread and, if `attach` made it, the communicator. A later backward raises an error."""
        if self._closed:
            return
        self._closed = True
        if self._owns_comm:
            self.comm.close()  # first: it ends operations that a lost peer would keep waiting
        self.state.close()

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@atexit.register
def _close_all() -> None:
    # Before the interpreter goes: a native thread must not outlive it.
    for handle in list(_open_handles):
        handle.close()


def attach(
    ddp: DistributedDataParallel,
    codec: CodecChoice = "int8",
    comm: Communicator | None = None,
    **options: Any,
) -> Handle:
    """Lets gradwire average the gradients of `ddp`. Call it on every rank, before the first backward.

    codec: a name such as "int8", "powersgd(rank=2)", a `gradwire.Stages` such as
    `gradwire.warmup("topk(ratio=0.01)", steps=150)`, or a policy by parameter name, first match wins:
    `{"*.bias": None, "embed.*": "int8", "*": "int4"}`; see `HookState`.

    Without `comm`, one is made over the ranks of `ddp.process_group`, through its store. Options:
    `transport`, `timeout` and others of `gradwire.init` for that communicator; those of `HookState` for the
    rest.

    >>> ddp = torch.nn.parallel.DistributedDataParallel(model)             # doctest: +SKIP
    >>> handle = gradwire.torch.attach(ddp, codec="int8")                  # doctest: +SKIP
    >>> handle.stats().ratio                                               # doctest: +SKIP
    3.9
    """
    if not isinstance(ddp, DistributedDataParallel):
        raise ArgumentError(
            f"attach() wants a DistributedDataParallel model, got {type(ddp).__name__}: wrap it first"
        )
    devices = {p.device.type for p in ddp.parameters() if p.requires_grad}
    if devices - {"cpu"}:
        raise ArgumentError(
            f"the hook works on CPU gradients in this version; the model has parameters on {devices}"
        )
    group = ddp.process_group
    of_state = {k: options.pop(k) for k in _STATE_OPTIONS if k in options}
    owns_comm = comm is None
    if comm is None:
        comm = new_communicator(group, **options)
    elif "timeout" in options:
        of_state["timeout"] = options.pop("timeout")
    if options and not owns_comm:
        raise ArgumentError(
            f"{sorted(options)} are for a communicator that attach() makes, but comm= was given"
        )
    try:
        state = HookState(
            comm, codec, process_group=group, named_parameters=ddp.named_parameters(), **of_state
        )
        ddp.register_comm_hook(state, all_reduce_hook)
    except BaseException:
        if owns_comm:
            comm.close()
        raise
    return Handle(ddp, state, owns_comm)


_STATE_OPTIONS = ("algorithm", "dense_1d", "min_numel", "warmup_steps", "error_feedback", "residual")
