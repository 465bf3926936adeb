"""Local SGD and DiLoCo: ranks train alone and meet every H steps.

What travels is the *outer gradient*: how far this rank's parameters have moved since the last meeting, coded
and with error feedback like any gradient. An outer optimizer applies the average of all ranks' to the
parameters of the last meeting (DiLoCo, Douillard et al. 2023, arXiv:2311.08105: inner AdamW, outer SGD with
Nesterov momentum); without one the ranks' parameters are averaged (local SGD, Stich 2019, arXiv:1805.09767).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from gradwire.communicator import Communicator
from gradwire.errors import ArgumentError, Closed

from .buckets import FlatBucket, broadcast, grouped, named
from .handle import Handle, communicator_for
from .state import CodecChoice, GradientState, of_state


class DiLoCo(Handle):
    """Trains `model` locally with `inner_optimizer`, and every `every` steps on all ranks' average movement.

    outer_optimizer: over the same parameters; the paper takes SGD(lr=0.7, momentum=0.9, nesterov=True). comm,
    process_group, codec, bucket_mb and options: as for `GradientBucketer`. Every rank makes it with the same
    arguments and calls `step` equally often; it starts all from rank 0's parameters and buffers.

    After each meeting parameters and buffers are the same bits on every rank (floating-point buffers, such as
    BatchNorm's statistics, are averaged; others are rank 0's). In between they differ: save checkpoints when
    `step` has returned True. Keeps one copy of the parameters, and a second one while ranks meet.

    >>> inner = torch.optim.AdamW(model.parameters(), lr=4e-4)                               # doctest: +SKIP
    >>> outer = torch.optim.SGD(model.parameters(), lr=0.7, momentum=0.9, nesterov=True)     # doctest: +SKIP
    >>> diloco = gradwire.torch.DiLoCo(model, inner, outer, comm, every=100, codec="int4")   # doctest: +SKIP
    >>> for x, y in batches:                                                                 # doctest: +SKIP
    ...     inner.zero_grad()
    ...     loss(model(x), y).backward()
    ...     diloco.step()
    """

    def __init__(
        self,
        model: torch.nn.Module,
        inner_optimizer: torch.optim.Optimizer,
        outer_optimizer: torch.optim.Optimizer | None,
        comm: Communicator | None = None,
        *,
        every: int,
        codec: CodecChoice = "int8",
        bucket_mb: float = 25.0,
        process_group: dist.ProcessGroup | None = None,
        **options: Any,
    ) -> None:
        if every < 1:
            raise ArgumentError(f"every must be at least 1 local step, got {every}")
        if "overlap" in options:
            raise ArgumentError("overlap is for gradients of every step: ranks wait where they meet")
        names = named(model.named_parameters())
        if outer_optimizer is not None:
            theirs = {id(p) for group in outer_optimizer.param_groups for p in group["params"]}
            absent = [name for name, p in names.items() if id(p) not in theirs]
            if absent:
                raise ArgumentError(
                    f"the outer optimizer lacks {len(absent)} of the model's parameters, among them "
                    f"{absent[0]}: make it with model.parameters(), as the inner one"
                )
        self._model, self._inner, self._outer = model, inner_optimizer, outer_optimizer
        self.every, self.local_steps = every, 0
        self._names, self._bucket_mb = names, bucket_mb
        mine, settings = of_state(options, given_comm=comm is not None)
        with communicator_for(comm, process_group, settings) as (used, owns_comm):
            mine.update(named_parameters=names.items(), may_be_unused=False)
            super().__init__(GradientState(used, codec, **mine), owns_comm)
            broadcast([*model.parameters(), *model.buffers()], used)
        self._anchors = self._buckets()  # the parameters of the last meeting
        self._drop_anchor()

    def _buckets(self) -> list[FlatBucket]:
        return grouped(list(self._names.values()), self._bucket_mb, self._bucket_mb)

    @torch.no_grad()
    def _drop_anchor(self) -> None:
        for bucket in self._anchors:
            for p, view in bucket:
                view.copy_(p)

    # -- training --------------------------------------------------------------------------------------------
    def step(self, closure: Callable[[], Any] | None = None) -> bool:
        """One step of the inner optimizer, and a meeting if it was the `every`-th. Returns whether ranks met.

        Raises PeerLost, Timeout, MismatchError as any collective; the parameters are then this rank's own.
        """
        if closure is None:
            self._inner.step()
        else:
            self._inner.step(closure)
        return self.stepped()

    def stepped(self) -> bool:
        """The same for a step of the inner optimizer that somebody else made, such as `scaler.step(inner)`.
        Call it also where that skipped the step: what counts is that all ranks call it equally often."""
        self.local_steps += 1
        if self.local_steps < self.every:
            return False
        self.sync()
        return True

    @torch.no_grad()
    def sync(self) -> None:
        """Meets now. Every rank calls it; `step` does when it is time."""
        if self._closed:
            raise Closed(f"this {type(self).__name__} was closed: make a new one to go on training")
        moved = self._buckets()
        futures = []
        for i, (bucket, anchor) in enumerate(zip(moved, self._anchors)):
            for (p, view), base in zip(bucket, anchor.views):
                torch.sub(base, p, out=view)
            futures.append(self.state.start(i, bucket.flat, bucket.params))
        for future in futures:
            future.wait()
        self.state.end_step()
        self.state.raise_error()
        for bucket, anchor in zip(moved, self._anchors):
            for (p, outer_gradient), base in zip(bucket, anchor.views):
                p.copy_(base)
                if self._outer is None:
                    p.sub_(outer_gradient)
                else:
                    p.grad = outer_gradient
        if self._outer is not None:
            self._outer.step()
            for p in self._names.values():
                p.grad = None
        self._drop_anchor()
        self._share_buffers()
        self.local_steps = 0

    def _share_buffers(self) -> None:
        averaged = [b for b in self._model.buffers() if b.is_floating_point() and b.numel()]
        for bucket in grouped(averaged, self._bucket_mb, self._bucket_mb) if averaged else []:
            for b, view in bucket:
                view.copy_(b)
            self.comm.all_reduce(bucket.flat, op="avg", timeout=self.state.timeout)
            for b, view in bucket:
                b.copy_(view)
        broadcast([b for b in self._model.buffers() if not b.is_floating_point()], self.comm)

    # -- checkpoints -----------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, torch.Tensor]:
        """Residuals, the parameters of the last meeting, and the steps since. The optimizers' states are
        theirs to save; the model's is every rank's own unless `local_steps` is 0."""
        anchors = {id(p): view for bucket in self._anchors for p, view in bucket}
        kept = {f"anchor/{name}": anchors[id(p)].clone() for name, p in self._names.items()}
        return {**super().state_dict(), **kept, "local_steps": torch.tensor(self.local_steps)}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        for name, p in self._names.items():
            saved = state.get(f"anchor/{name}")
            if saved is None or saved.shape != p.shape:
                raise ArgumentError(
                    f"the state dict has {'no' if saved is None else f'a {list(saved.shape)}'} anchor of "
                    f"parameter {name}, expected {list(p.shape)}: load it with the model it was saved with"
                )
        super().load_state_dict(state)
        anchors = {id(p): view for bucket in self._anchors for p, view in bucket}
        for name, p in self._names.items():
            anchors[id(p)].copy_(state[f"anchor/{name}"])
        self.local_steps = int(state["local_steps"])


class LocalSGD(DiLoCo):
    """`DiLoCo` without an outer optimizer: every `every` steps the ranks' parameters become their average.

    >>> local = gradwire.torch.LocalSGD(model, optimizer, comm, every=8, codec="int8")  # doctest: +SKIP
    >>> local.step()                                                                     # doctest: +SKIP
    False
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        comm: Communicator | None = None,
        *,
        every: int,
        **options: Any,
    ) -> None:
        super().__init__(model, optimizer, None, comm, every=every, **options)
