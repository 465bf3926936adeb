"""Coded collectives over an engine that is there already: any torch process group, whatever its backend.

A `Carrier` stands where a Communicator would: `attach(ddp, carrier=group)`, or as `comm=` anywhere. What it
sends are gradwire's payloads, as bytes, through the group's own all_to_all_single and all_gather_into_tensor
(NCCL, Gloo, MPI, UCC). The algorithm is the engine's "direct" (two_shot.py), and so are the bits: replicas
end identical, and the residuals hold exactly what was lost. Without a lossy codec the group's own collective
does it, on the values as they are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from gradwire.codecs import Codec, as_codec
from gradwire.communicator import Communicator
from gradwire.config import Duration, seconds
from gradwire.errors import ArgumentError, Closed

from . import device, private
from .carrier_work import CarriedWork, Passing, errors_as_ours
from .reaper import Reaper
from .two_shot import How, TwoShot, wait_for

Tensor = torch.Tensor
_OPS = {"sum": "SUM", "avg": "SUM", "min": "MIN", "max": "MAX", "prod": "PRODUCT"}


class _NoEngine:
    def __getattr__(self, name: str) -> Any:
        raise ArgumentError(f"a Carrier has no engine for {name}: use a communicator of gradwire.init()")


def _needs_engine(name: str) -> Any:
    return lambda *_, **__: getattr(_NoEngine(), name)


class Carrier(Communicator):
    """The verbs of a Communicator over the ranks, and through the collectives, of a torch process group.

    group: None is the default one. While operations are under way nothing else may issue collectives on it:
    ranks must agree on their order, and a carrier issues from a thread of its own
    (`torch.distributed.new_group()` makes one for it alone). Deadlines are those of the group; its errors
    come as GradwireError, which is also a DistBackendError. Arrays are contiguous tensors where the group
    takes them, or NumPy arrays. A CUDA tensor is coded on its GPU, on a stream of the carrier's that begins
    after what the caller's holds; a codec without kernels (rice4) is an ArgumentError. What lies in host
    memory passes through the GPU if the group takes nothing else (NCCL), for all_reduce and broadcast.
    algorithm may be "auto" or "direct". What needs an engine of our own (probe, split, reconfigure, explain,
    candidates, all_reduce_many) raises ArgumentError.

    >>> handle = gradwire.torch.attach(ddp, "int8", carrier=dist.new_group(backend="gloo"))  # doctest: +SKIP
    >>> comm = gradwire.torch.Carrier(mesh["tp"].get_group())  # doctest: +SKIP
    >>> comm.all_reduce(x, codec="int8")  # doctest: +SKIP
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group: Any = group if group is not None else dist.group.WORLD
        if self.group is None:
            raise ArgumentError("torch.distributed is not initialised: call init_process_group() first")
        self.rank, self.size, self.epoch = dist.get_rank(self.group), dist.get_world_size(self.group), 0
        if self.rank < 0:
            raise ArgumentError("this rank does not belong to the group")
        self._native: Any = _NoEngine()
        self._line, self._turn = Reaper(), threading.Lock()  # a thread, in order; who may issue collectives
        self._entry = threading.Lock()
        self._last: CarriedWork | None = None
        self._calls = 0
        self._closed = False
        self._coded = TwoShot(self.group, self.rank, self.size)
        self._places: dict[torch.device, device.Host] = {}
        # of the thread that makes the carrier; its own thread's would be GPU 0
        self._gpu = torch.device("cuda", torch.cuda.current_device() if torch.cuda.is_available() else 0)

    # -- the verbs -------------------------------------------------------------------------------------------
    def all_reduce(
        self,
        x: Any,
        op: str = "sum",
        codec: Any = None,
        algorithm: str = "auto",
        residual: Any = None,
        *,
        async_op: bool = False,
        timeout: Duration | None = None,
    ) -> Any:
        """As `Communicator.all_reduce`, coded or not. codec="auto" is none: nothing here knows the links."""
        flat, owed = _flat(x), None if residual is None else _flat(residual)
        chosen, limit = self._checked(codec, algorithm, flat, op, owed), _limit(timeout)
        place = self._place(flat)

        def act(seq: int) -> None:
            if chosen is not None:
                self._coded.all_reduce(flat, op, How(chosen, seq, limit, place), owed)
                return
            mine = self._taken(flat)
            if op == "avg":
                mine.mul_(1.0 / self.size)  # first, as DDP does: 16-bit sums stay in range
            wait_for(dist.all_reduce(mine, _op(op), group=self.group, async_op=True), limit)
            flat.copy_(mine)  # does nothing if they are one
            self._count(2 * flat.nbytes)

        return self._do(act, x, async_op, flat, owed)

    def reduce_scatter(
        self,
        x: Any,
        out: Any = None,
        op: str = "sum",
        codec: Any = None,
        algorithm: str = "auto",
        *,
        residual: Any = None,
        async_op: bool = False,
        timeout: Duration | None = None,
    ) -> Any:
        flat, owed = _flat(x), None if residual is None else _flat(residual)
        chosen, limit = self._checked(codec, algorithm, flat, op, owed), _limit(timeout)
        if flat.numel() % self.size:
            raise ArgumentError(f"{flat.numel()} elements do not divide by {self.size} ranks: pad x")
        if out is None:
            rows = x.shape[0] if len(x.shape) else 0
            fits = rows and rows % self.size == 0
            shape = (rows // self.size, *x.shape[1:]) if fits else (flat.numel() // self.size,)
            out = flat.new_empty(shape)
        to, place = _flat(out), self._place(flat)

        def act(seq: int) -> None:
            if chosen is not None:
                self._coded.reduce_scatter(flat, to, op, How(chosen, seq, limit, place), owed)
                return
            source = flat if op != "avg" else flat * (1.0 / self.size)
            work = private.reduce_scatter_single(to, source, _op(op), group=self.group, async_op=True)
            wait_for(work, limit)
            self._count(flat.nbytes)

        return self._do(act, _as(out, x), async_op, flat, to, owed)

    def all_gather(
        self,
        x: Any,
        out: Any = None,
        codec: Any = None,
        algorithm: str = "auto",
        *,
        async_op: bool = False,
        timeout: Duration | None = None,
    ) -> Any:
        flat, limit = _flat(x), _limit(timeout)
        chosen = self._checked(codec, algorithm, flat)
        out = flat.new_empty((self.size, *x.shape)) if out is None else out
        to = _flat(out)
        if to.numel() != self.size * flat.numel():
            raise ArgumentError(f"out must have {self.size * flat.numel()} elements, got {to.numel()}")
        place = self._place(flat)

        def act(seq: int) -> None:
            if chosen is not None:
                self._coded.all_gather(flat, to, How(chosen, seq, limit, place))
                return
            # some backends mind an input that lies in the output
            source = flat.clone() if _within(flat, to) else flat
            wait_for(private.all_gather_single(to, source, group=self.group, async_op=True), limit)
            self._count(to.nbytes)

        return self._do(act, _as(out, x), async_op, flat, to)

    def broadcast(
        self,
        x: Any,
        root: int = 0,
        codec: Any = None,
        algorithm: str = "auto",
        *,
        async_op: bool = False,
        timeout: Duration | None = None,
    ) -> Any:
        flat, limit = _flat(x), _limit(timeout)
        chosen = self._checked(codec, algorithm, flat)
        source, place = self._global(root), self._place(flat)

        def act(seq: int) -> None:
            if chosen is not None:
                self._coded.broadcast(flat, root, How(chosen, seq, limit, place))
                return
            mine = self._taken(flat)
            wait_for(dist.broadcast(mine, source, group=self.group, async_op=True), limit)
            flat.copy_(mine)

        return self._do(act, x, async_op, flat)

    def all_to_all(
        self,
        x: Any,
        out: Any = None,
        codec: Any = None,
        async_op: bool = False,
        timeout: Duration | None = None,
    ) -> Any:
        if as_codec(codec) is not None:
            raise ArgumentError("a carrier's all_to_all takes no codec")
        limit, flat = _limit(timeout), _flat(x)
        out = torch.empty_like(flat).view(x.shape) if out is None else out
        to = _flat(out)

        def act(seq: int) -> None:
            wait_for(dist.all_to_all_single(to, flat, group=self.group, async_op=True), limit)
            self._count(flat.nbytes)

        return self._do(act, _as(out, x), async_op, flat, to)

    def send(
        self, x: Any, dst: int, tag: int = 0, async_op: bool = False, timeout: Duration | None = None
    ) -> Any:
        self._coded.sent += _flat(x).nbytes
        work = self._pass(dist.isend, x, dst, tag)
        return work if async_op else work.wait(timeout)

    def recv(
        self, x: Any, src: int, tag: int = 0, async_op: bool = False, timeout: Duration | None = None
    ) -> Any:
        work = self._pass(dist.irecv, x, src, tag)
        return work if async_op else work.wait(timeout)

    def barrier(self, async_op: bool = False, timeout: Duration | None = None) -> Any:
        limit = _limit(timeout)
        return self._do(
            lambda _: wait_for(dist.barrier(group=self.group, async_op=True), limit), None, async_op
        )

    # -- common ----------------------------------------------------------------------------------------------
    def _checked(
        self, codec: Any, algorithm: str, x: Tensor, op: str = "sum", owed: Tensor | None = None
    ) -> Codec | None:
        """The codec if it is to be used; ArgumentError if something does not fit."""
        if algorithm not in ("auto", "direct"):
            raise ArgumentError(f'a carrier\'s algorithm is "direct", got {algorithm!r}')
        if op not in _OPS:
            raise ArgumentError(f"op must be one of {', '.join(_OPS)}, got {op!r}")
        chosen = None if codec == "auto" else as_codec(codec)
        if chosen is not None and not chosen.lossy:
            chosen = None  # changes no result, and the group carries values as they are
        if (chosen is not None or op == "avg") and not x.is_floating_point():
            raise ArgumentError(f"lossy codecs and averages are for floats, got {x.dtype}")
        if chosen is not None and op not in ("sum", "avg"):
            raise ArgumentError(f"codec {chosen} is lossy and works on sums and averages, got op {op!r}")
        if chosen is not None and not device.known(x.device):
            raise ArgumentError(
                f"a carrier codes CPU and CUDA tensors, got one on {x.device}: pass x.cpu() over a group for "
                "the CPU (Gloo) and copy the result back, or no codec"
            )
        if chosen is not None and not chosen.fixed_size and not self._place(x).answers:
            raise ArgumentError(
                f"codec {chosen} makes payloads of any size, which a GPU does not tell in time: take int4, "
                "or a communicator of gradwire.init(), which codes it in host memory"
            )
        if owed is not None and chosen is None:
            raise ArgumentError("a residual needs a lossy codec: without one nothing is lost")
        if owed is not None and (owed.dtype != torch.float32 or owed.numel() != x.numel()):
            raise ArgumentError(
                f"the residual must be float32[{x.numel()}] like the array, got {owed.dtype}[{owed.numel()}]"
            )
        if owed is not None and owed.device != x.device:
            raise ArgumentError(f"the residual is on {owed.device}, the array on {x.device}")
        return chosen

    def _pass(self, issue: Any, x: Any, peer: int, tag: int) -> Passing:
        if self._closed:
            raise Closed("the carrier is closed")
        with errors_as_ours():
            return Passing(issue(_flat(x), self._global(peer), group=self.group, tag=tag), x)

    def _place(self, x: Tensor) -> device.Host:
        """What the group takes beside CPU and CUDA tensors, it keeps in order itself."""
        if x.device not in self._places:
            self._places[x.device] = device.place_of(x.device) if device.known(x.device) else device.Host()
        return self._places[x.device]

    def _taken(self, x: Tensor) -> Tensor:
        """Itself, or a copy on the GPU where the group has no use for host memory."""
        if x.device.type != "cpu" or private.takes_host_memory(self.group):
            return x
        return x.to(self._gpu)

    def _do(self, act: Callable[[int], object], result: Any, async_op: bool, *used: Tensor | None) -> Any:
        tensors = [t for t in used if t is not None]
        place = self._place(tensors[0]) if tensors else device.Host()
        with place.behind_caller(*tensors):
            pass  # what is done in line comes after this
        with self._entry:
            if self._closed:
                raise Closed("the carrier is closed")
            seq, self._calls = self._calls, self._calls + 1
            work = CarriedWork(lambda: act(seq), self._turn, result, place)
            # Alone, a synchronous call needs no hand-over.
            alone = not async_op and (self._last is None or self._last.done())
            self._last = work
            if alone:
                self._turn.acquire()
            else:
                self._line.put(work)
        if alone:
            try:
                work.run_now()
            finally:
                self._turn.release()
        return work if async_op else work.wait()

    def _count(self, nbytes: int) -> None:
        """Of an array whose other ranks' shares are sent once."""
        self._coded.sent += nbytes * (self.size - 1) // self.size

    def _global(self, rank: int) -> int:
        if not 0 <= rank < self.size:
            raise ArgumentError(f"rank must be from 0 to {self.size - 1}, got {rank}")
        return dist.get_global_rank(self.group, rank)

    split = _needs_engine("split")
    reconfigure = _needs_engine("reconfigure")
    all_reduce_many = _needs_engine("all_reduce_many")
    measured = True  # there is nothing to measure

    def auto_codec(self, x: Any, op: str = "sum") -> None:
        """None: what the group's links are like is not known."""

    def stats(self) -> dict[str, int]:
        """operations; bytes_sent: payloads and values handed to the group, counted as its best algorithm
        would send them. What the backend put on sockets is not known, nor what came: 0."""
        return {
            "operations": self._calls,
            "bytes_sent": self._coded.sent,
            "bytes_received": 0,
            "socket_bytes_sent": 0,
            "socket_bytes_received": 0,
            "staging_bytes": self._coded.rooms(),
        }

    def peers(self) -> list[tuple[str, str]]:
        kind = dist.get_backend(self.group)
        return [("self" if r == self.rank else kind, "") for r in range(self.size)]

    def step(self) -> None:
        """Nothing here is chosen anew."""

    def trace_start(self, events: int = 100_000) -> None:
        """What the group's engine does cannot be seen."""

    def trace_stop(self) -> list[Any]:
        return []

    def abort(self, reason: str) -> None:
        """Later calls raise Closed; the group itself goes on."""
        self._closed = True

    def close(self) -> None:
        """Waits for what is under way. The group stays: it is its owner's."""
        with self._entry:
            self._closed = True
        self._line.close()

    def __repr__(self) -> str:
        return f"<gradwire.torch.Carrier rank {self.rank} of {self.size} over {dist.get_backend(self.group)}>"


def _op(op: str) -> Any:
    return getattr(dist.ReduceOp, _OPS[op])


def _limit(timeout: Duration | None) -> float | None:
    return None if timeout is None else seconds(timeout)


def _flat(x: Any) -> Tensor:
    t = x.detach() if isinstance(x, torch.Tensor) else torch.from_numpy(x)
    if not t.is_contiguous():
        raise ArgumentError("the array is not contiguous: pass x.contiguous() and copy the result back")
    return t.view(-1)


def _as(made: Any, like: Any) -> Any:
    return made if isinstance(like, torch.Tensor) or not isinstance(made, torch.Tensor) else made.numpy()


def _within(x: Tensor, whole: Tensor) -> bool:
    begin = whole.data_ptr()
    return begin <= x.data_ptr() < begin + max(1, whole.nbytes)
