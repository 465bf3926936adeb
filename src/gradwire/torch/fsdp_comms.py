"""What FSDP2 calls instead of its own collectives: one object a module and collective, named by the module.

FSDP2 takes any object that has `allocate` and `__call__` for its all-gather and reduce-scatter
(`set_custom_all_gather`, `set_custom_reduce_scatter`). For the all-reduce of HSDP it has no such place,
but it calls `dist.all_reduce` on the module's replicate group: a process group of that one operation does it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist

from gradwire.codecs import Codec
from gradwire.errors import ArgumentError, Closed
from gradwire.feedback import ErrorFeedback, pay
from gradwire.policy import Policy


class Lines:
    """The communicators of a model's process groups, one each, and what went over them.

    connect: makes an object with all_reduce, reduce_scatter and all_gather, as a Communicator has, over the
    ranks of a process group. Every rank of the group comes here at the same point of its program."""

    def __init__(self, connect: Callable[[dist.ProcessGroup], Any]) -> None:
        self._connect = connect
        self._comms: dict[dist.ProcessGroup, Any] = {}
        self.calls: Counter[str] = Counter()
        self.dense_bytes = 0
        self.exposed_s = 0.0
        self._closed = False

    def of(self, group: dist.ProcessGroup) -> Any:
        if group not in self._comms:
            if self._closed:
                raise Closed("the handle of gradwire.torch.fsdp.apply was closed: the model cannot run")
            self._comms[group] = self._connect(group)
        return self._comms[group]

    def bytes_sent(self, counter: str = "bytes_sent") -> int:
        return sum(int(c.stats()[counter]) for c in self._comms.values())

    def count(self, collective: str, dense_bytes: int) -> None:
        self.calls[collective] += 1
        self.dense_bytes += dense_bytes

    @contextmanager
    def exposed(self) -> Any:
        begin = time.monotonic()
        try:
            yield
        finally:
            self.exposed_s += time.monotonic() - begin

    def close(self) -> None:
        self._closed = True
        for comm in self._comms.values():
            comm.close()


class CodecAt:
    """One module's codec by step; None throughout if it is too small to be coded."""

    def __init__(self, policy: Policy, name: str, coded: bool) -> None:
        self._policy, self._name, self._coded = policy, name, coded

    def at(self, step: int) -> Codec | None:
        return cast("Codec | None", self._policy.at(self._name, step)) if self._coded else None

    def ever(self) -> list[Codec | None]:
        return cast("list[Codec | None]", self._policy.ever(self._name)) if self._coded else [None]


class Sums:
    """The sums of one kind that one module asks for: codec by step, and the residual that goes with it.

    count: elements when every trainable parameter has a gradient. FSDP sends fewer if some were not used, and
    does not say which: those steps travel exactly, and the residual waits for the next whole one. padding:
    indices of elements of no parameter, which owe nothing."""

    def __init__(
        self, name: str, count: int, padding: torch.Tensor, codec: CodecAt, feedback: ErrorFeedback | None
    ) -> None:
        self.name, self.count, self.step = name, count, 0
        self.operator = "avg"  # the last one's name: how residuals weigh in the result
        self.owing = False  # whether the residual may be other than zero
        self._codec, self._padding = codec, padding
        loses = any(c is not None and c.lossy for c in codec.ever())
        self.feedback = feedback if loses else None
        if self.feedback is not None:
            self.feedback.declare(name, count)

    def run(self, x: torch.Tensor, op: Any, collective: Callable[..., Any]) -> None:
        """collective(op=, codec=, residual=) sums x over the ranks."""
        verb, factor = _reduction(op)
        if factor is not None:
            x.mul_(factor)
        self.operator = verb if factor is None else "scaled sum"
        whole = x.numel() == self.count
        codec = self._codec.at(self.step) if whole else None
        self.step += 1
        lossy = codec is not None and codec.lossy
        if self.feedback is None or not whole or not (lossy or self.owing):
            collective(op=verb, codec=codec, residual=None)
            return
        with self.feedback.borrow(self.name) as residual:
            if lossy:
                collective(op=verb, codec=codec, residual=residual)
                torch.from_numpy(residual).index_fill_(0, self._padding, 0)
            else:
                pay(x, torch.from_numpy(residual))
                collective(op=verb, codec=codec, residual=None)
            self.owing = lossy


def _reduction(op: Any) -> tuple[str, float | None]:
    """(operator, factor to multiply with before). `op` may be of either of torch's two types."""
    if op == dist.ReduceOp.AVG:
        return "avg", None
    if op == dist.ReduceOp.SUM:
        return "sum", None
    if op == dist.ReduceOp.PREMUL_SUM and hasattr(op, "factor"):
        return "sum", float(op.factor)
    raise ArgumentError(f"FSDP asked for {op}; gradients are summed or averaged")


class _Buffers:
    def allocate(self, size: Sequence[Any], *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        return torch.empty(*size, dtype=dtype, device=device)


class ReduceScatter(_Buffers):
    """torch.distributed.fsdp's ReduceScatter for one module."""

    def __init__(self, lines: Lines, sums: Sums) -> None:
        self._lines, self.sums = lines, sums

    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> None:
        comm, x = self._lines.of(group), input_tensor
        self._lines.count("reduce_scatter", x.nbytes - x.nbytes // group.size())
        with self._lines.exposed():
            self.sums.run(x, op, lambda **how: comm.reduce_scatter(x, output_tensor, **how))


class AllGather(_Buffers):
    """torch.distributed.fsdp's AllGather for one module. All ranks, the owner too, get what the codec
    decodes to; the input is a piece of the output. It runs while torch prefetches: wait() ends it."""

    def __init__(self, lines: Lines, codec: Codec | None) -> None:
        self._lines, self._codec = lines, codec

    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: dist.ProcessGroup,
        async_op: bool = False,
    ) -> dist.Work:
        comm, x = self._lines.of(group), input_tensor
        # bytes: torch's way of sending parameters of several dtypes as one
        codec = self._codec if x.is_floating_point() else None
        self._lines.count("all_gather", x.nbytes * (group.size() - 1))
        return _Gathering(comm.all_gather(x, output_tensor, codec=codec, async_op=True), self._lines)


class _Gathering(dist.Work):
    def __init__(self, work: Any, lines: Lines) -> None:
        super().__init__()
        self._work, self._lines = work, lines

    def wait(self, timeout: Any = None) -> bool:
        with self._lines.exposed():
            self._work.wait()
        return True


class Replicas(dist.ProcessGroup):
    """A replicate group whose all_reduce is ours: what HSDP sums its shards over. It does nothing else."""

    def __init__(self, lines: Lines, group: dist.ProcessGroup, sums: Sums) -> None:
        super().__init__(group.rank(), group.size())  # type: ignore[call-arg]  # what a subclass must call
        self._lines, self.group, self.sums = lines, group, sums

    def allreduce(self, tensors: Sequence[torch.Tensor], opts: Any = None) -> None:  # type: ignore[override]
        (x,) = tensors
        comm = self._lines.of(self.group)
        self._lines.count("all_reduce", 2 * (x.nbytes - x.nbytes // self.size()))
        with self._lines.exposed():
            self.sums.run(x, opts.reduceOp, lambda **how: comm.all_reduce(x, **how))

    def getBackendName(self) -> str:
        return "gradwire"

    def getGroupName(self) -> str:
        return str(self.group.group_name)

    def getGroupDesc(self) -> str:
        return "gradwire replicas"
