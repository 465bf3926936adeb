"""Gradient averaging for training loops without DistributedDataParallel, overlapped with backward."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from gradwire.communicator import Communicator
from gradwire.errors import ArgumentError, Closed

from .buckets import FIRST_MB, auto_mb, broadcast, grouped, named
from .handle import Handle, communicator_for
from .state import CodecChoice, GradientState, of_state
from .trace import HookTrace


class GradientBucketer(Handle):
    """Averages the gradients of a model over all ranks while backward computes; call `wait` before the
    optimizer.

    parameters: `model.parameters()`, or `model.named_parameters()`, which a policy by name and a checkpoint
    that outlives a change of the model need. Frozen ones are left out. comm: None makes one, over
    `process_group` if torch.distributed is initialised, else by `gradwire.init()`'s rules. codec and options:
    as in `attach`. bucket_mb, first_bucket_mb: sizes of the messages, in MiB of gradient; None: what
    `attach` takes for "auto".
    find_unused_parameters: a parameter without a gradient on this rank counts as zeros, and one without a
    gradient on any rank keeps `grad` None; costs one small message a step. Without it that is an
    ArgumentError. broadcast_parameters: start from rank 0's values.

    Every rank makes it with the same arguments. After `wait`, `p.grad` lies in the bucket's memory: the next
    backward may overwrite a tensor that you kept. A second backward before `wait` needs `no_sync`. Errors of
    the network (PeerLost, Timeout, MismatchError) come out of `wait`.

    >>> bucketer = gradwire.torch.GradientBucketer(model.named_parameters(), comm, "int8")  # doctest: +SKIP
    >>> for x, y in batches:                                                                # doctest: +SKIP
    ...     optimizer.zero_grad()
    ...     loss(model(x), y).backward()  # buckets travel as they fill
    ...     bucketer.wait()  # gradients are averages now: clip them here
    ...     optimizer.step()
    """

    def __init__(
        self,
        parameters: Iterable[torch.Tensor | tuple[str, torch.Tensor]],
        comm: Communicator | None = None,
        codec: CodecChoice = "int8",
        *,
        bucket_mb: float | None = None,
        first_bucket_mb: float = FIRST_MB,
        find_unused_parameters: bool = False,
        broadcast_parameters: bool = True,
        process_group: dist.ProcessGroup | None = None,
        **options: object,
    ) -> None:
        self._names = named(parameters)
        self._params = list(self._names.values())
        mine, settings = of_state(options, given_comm=comm is not None)
        with communicator_for(comm, process_group, settings) as (used, owns_comm):
            self._caps = (auto_mb(used.size) if bucket_mb is None else bucket_mb, first_bucket_mb)
            self._group(range(len(self._params) - 1, -1, -1))
            mine.update(named_parameters=self._names.items(), may_be_unused=find_unused_parameters)
            state = GradientState(used, codec, **mine)
            super().__init__(state, owns_comm)
            if broadcast_parameters:
                broadcast(self._params, used)
        self._find_unused = find_unused_parameters
        self._syncing, self._rebuilt = True, False
        self._used = np.zeros(len(self._params), np.uint8)  # by any rank, in the last step
        self._recorded: HookTrace | None = None
        self._begin_step()
        untyped: Any = self._params
        self._hooks = [p.register_post_accumulate_grad_hook(self._ready) for p in untyped]

    def _begin_step(self) -> None:
        self._missing = [len(bucket.params) for bucket in self._buckets]
        self._order: list[int] = []  # ids of the parameters whose gradients are there, as they came
        self._seen: set[int] = set()
        self._futures: list[torch.futures.Future[torch.Tensor]] = []

    # -- during backward -------------------------------------------------------------------------------------
    @torch.no_grad()
    def _ready(self, param: torch.Tensor) -> None:
        if not self._syncing:
            return
        if self._closed:
            raise Closed("this GradientBucketer was closed: its hooks still ran, in a backward begun before")
        if self._recorded is not None and not self._order:
            self._recorded.backward_begins(time.monotonic())
        if id(param) in self._seen:
            raise ArgumentError(
                f"parameter {self._name(param)} got a second gradient before wait(): call wait() after every "
                "backward, and run all but the last of several in no_sync()"
            )
        self._take(param)
        self._start_full_buckets()

    def _take(self, param: torch.Tensor) -> None:
        """Moves the gradient into its bucket and makes that its place."""
        i, view = self._place[id(param)]
        grad = param.grad
        if grad is None:
            view.zero_()
        elif grad.is_sparse:
            raise ArgumentError(
                f"parameter {self._name(param)} has a sparse gradient, which buckets cannot hold: make its "
                "layer with sparse=False, or use DDP with attach()"
            )
        elif grad.data_ptr() != view.data_ptr():
            view.copy_(grad)
        param.grad = view
        self._seen.add(id(param))
        self._order.append(id(param))
        self._missing[i] -= 1

    def _start_full_buckets(self) -> None:
        """In the order of their numbers, which is the same on every rank."""
        while len(self._futures) < len(self._buckets) and not self._missing[len(self._futures)]:
            i = len(self._futures)
            bucket = self._buckets[i]
            self._futures.append(self.state.start(i, bucket.flat, bucket.params))

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Backward passes inside the block accumulate into `grad` and send nothing; the next one outside
        sends the sums.

        >>> with bucketer.no_sync():               # doctest: +SKIP
        ...     loss(model(x1), y1).backward()
        >>> loss(model(x2), y2).backward()         # doctest: +SKIP
        >>> bucketer.wait()                        # doctest: +SKIP
        """
        before, self._syncing = self._syncing, False
        try:
            yield
        finally:
            self._syncing = before

    # -- after it --------------------------------------------------------------------------------------------
    def wait(self) -> None:
        """Returns once every `grad` is the average over the ranks. Raises what went wrong on the way.

        ArgumentError if parameters got no gradient and `find_unused_parameters` is off; PeerLost, Timeout,
        MismatchError as any collective.
        """
        if self._closed:
            raise Closed("this GradientBucketer was closed: make a new one to go on training")
        try:
            unused = [p for p in self._params if id(p) not in self._seen]
            if unused and not self._find_unused:
                raise self._unused(unused)
            used = self._used_here() if self._find_unused else None  # all are, otherwise
            with torch.no_grad():
                for p in unused:
                    self._take(p)
                self._start_full_buckets()
            for future in self._futures:
                future.wait()
            self.state.end_step()
            self.state.raise_error()
            self.state.catch_up()
            if used is not None:
                self.comm.all_reduce(used, op="max", timeout=self.state.timeout)
                self._drop_unused(self._of_delivered(used))
            if not self._rebuilt:
                self._rebuild()
        finally:
            for future in self._futures:  # after an error too: their arrays are in use until they are done
                future.wait()
            self._begin_step()

    synchronize = wait

    def _used_here(self) -> Any:
        return np.array([id(p) in self._seen or p.grad is not None for p in self._params], np.uint8)

    def flush(self) -> None:
        super().flush()
        if self._find_unused and self.state.next_batch is not None:
            self._drop_unused(self._used)

    def _drop_unused(self, used: Any) -> None:
        for p, flag in zip(self._params, used):
            if not flag:
                p.grad = None

    def _of_delivered(self, used: Any) -> Any:
        """Of the step whose averages `grad` holds now."""
        if self.state.next_batch is None:
            return used
        last, self._used = self._used, used
        return last

    def _rebuild(self) -> None:
        """Buckets in the order in which rank 0's gradients came, so that the first is full first."""
        number = {id(p): i for i, p in enumerate(self._params)}
        order = np.array([number[key] for key in self._order], np.int64)
        self.comm.broadcast(order, root=0, timeout=self.state.timeout)
        self._group(order.tolist())
        self._rebuilt = True

    def _group(self, order: Sequence[int]) -> None:
        self._grouping = list(order)
        self._buckets = grouped([self._params[i] for i in order], *self._caps)
        self._place = {id(p): (i, view) for i, bucket in enumerate(self._buckets) for p, view in bucket}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """That of `attach`'s handle, and the parameters' order in the buckets: a resumed run has the bits of
        an uninterrupted one."""
        layout = {"order": torch.tensor(self._grouping), "regrouped": torch.tensor(self._rebuilt)}
        return {**super().state_dict(), **layout, "used": torch.from_numpy(self._used.copy())}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        order = state["order"].tolist()
        if sorted(order) != list(range(len(self._params))):
            raise ArgumentError(
                f"the state dict orders {len(order)} parameters, this bucketer has {len(self._params)}: load "
                "it with the model it was saved with"
            )
        super().load_state_dict(state)
        self._group(order)
        self._rebuilt = bool(state["regrouped"])
        self._used = state["used"].numpy().copy()
        self._begin_step()

    def _name(self, param: torch.Tensor) -> str:
        return next(name for name, p in self._names.items() if p is param)

    def _unused(self, unused: Sequence[torch.Tensor]) -> ArgumentError:
        names = [self._name(p) for p in unused[:8]]
        return ArgumentError(
            f"{len(unused)} of {len(self._params)} parameters got no gradient since the last wait(): "
            f"{', '.join(names)}{', ...' if len(unused) > 8 else ''}; if that is right, use "
            "find_unused_parameters=True"
        )

    @contextmanager
    def _watch(self, recorded: HookTrace) -> Iterator[None]:
        self._recorded = recorded
        try:
            yield
        finally:
            self._recorded = None

    def close(self) -> None:
        """Removes the hooks; frees the thread and, if it was not given, the communicator."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        super().close()
