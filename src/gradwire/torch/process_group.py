"""torch.distributed's ProcessGroup on a gradwire Communicator: `init_process_group("gradwire")`.

Every collective is the engine's own. Point-to-point messages, whose tags and any-source receives the engine
does not match, bitwise and sparse reductions go to a Gloo backend inside. Every operation that torch's
trampoline knows is overridden here, and never by calling super(): the trampoline's own way there holds the
GIL through the backend's locks, which a Gloo thread that frees a tensor waits for (seen to hang 7 runs of
8).

As with any torch group, all ranks issue collectives in one order; each returns a `Work`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from gradwire.communicator import Communicator
from gradwire.errors import GradwireError

from . import private
from .pg_values import BITWISE, FLOATS, NAMES, Place, Reduction, movable, overlap, place_for, plain, reduction
from .pg_work import Work, as_torch_raises, refused
from .reaper import Reaper

Tensor = torch.Tensor
_CODABLE = FLOATS - {torch.float64}


class ProcessGroup(private.ProcessGroupBase):  # type: ignore[misc]
    """Made by torch.distributed. comm: of this group's ranks, owned. gloo: a ProcessGroupGloo of the same."""

    def __init__(self, comm: Communicator, gloo: Any, options: Any) -> None:
        super().__init__(comm.rank, comm.size)
        self.comm, self.options = comm, options
        self._gloo = gloo
        self._codec, self._algorithm, self._min_numel = options.codec, options.algorithm, options.min_numel
        self._timeout: float | None = None  # None: the communicator's
        self._reaper = Reaper()
        self._coalesced: list[Any] | None = None
        custom = dist.ProcessGroup.BackendType.CUSTOM
        self._set_default_backend(custom)
        # With it names, device types, DCP's and DDP's checks work as for torch's own groups.
        self._register_backend(torch.device("cpu"), custom, gloo)

    # -- reductions ------------------------------------------------------------------------------------------
    def allreduce(self, tensors: Sequence[Tensor], opts: Any = None) -> Any:
        x, opts = _one(tensors), opts or dist.AllreduceOptions()
        if x.is_sparse:
            return self._note(self._gloo.allreduce([x], opts))
        op, limit = opts.reduceOp, self._limit(opts)
        # The usual case by hand: what follows is good for all, and costs a quarter of a small call's time.
        name = NAMES.get(op.op.name)
        if name is not None and x.dtype in FLOATS and x.is_contiguous():
            codec = self._codec_for(name, x)
            try:
                if not opts.asyncOp and self._coalesced is None:
                    self.comm.all_reduce(x, name, codec, self._how(codec), timeout=limit)
                    return Work((), [x], self._reaper)
                work = self.comm.all_reduce(x, name, codec, self._how(codec), async_op=True, timeout=limit)
            except GradwireError as error:
                raise as_torch_raises(error) from None
            return self._note(Work((work,), [x], self._reaper))
        works, place = self._reduced(x, op, limit)
        return self._work(works, [x], place.finish)

    def allreduce_coalesced(self, tensors: Sequence[Tensor], opts: Any) -> Any:
        works, finishes = [], []
        for x in tensors:
            more, place = self._reduced(x, opts.reduceOp, self._limit(opts))
            works += more
            finishes.append(place.finish)
        return self._work(works, list(tensors), _all(finishes))

    def reduce(self, tensors: Sequence[Tensor], opts: Any) -> Any:
        x = _one(tensors)
        mine = opts.rootRank == self.comm.rank
        # An all-reduce of which the others throw the result away.
        target = x if mine else x.detach().clone()
        works, place = self._reduced(target, opts.reduceOp, self._limit(opts))
        return self._work(works, [x], place.finish if mine else None)

    def reduce_scatter(self, outputs: Sequence[Tensor], inputs: Sequence[Sequence[Tensor]], opts: Any) -> Any:
        out, parts = _one(outputs), _one(inputs)
        if len(parts) != self.comm.size:
            raise refused(f"reduce_scatter needs {self.comm.size} tensors, one a rank, got {len(parts)}")
        # Parts of different sizes are padded to the largest: shares of the engine are equal.
        most = max(p.numel() for p in parts)
        whole = torch.zeros((len(parts), most), dtype=out.dtype)
        for row, part in zip(whole, parts):
            row[: part.numel()].copy_(part.detach().reshape(-1))
        share = torch.empty(most, dtype=out.dtype)
        works, finish = self._scattered(share, whole.view(-1), opts.reduceOp, self._limit(opts))
        give = [finish, lambda: out.detach().copy_(share[: out.numel()].view(out.shape))]
        return self._work(works, [out], _all(give))

    def reduce_scatter_single(self, out: Tensor, x: Tensor, opts: Any) -> Any:
        works, finish = self._scattered(out, x, opts.reduceOp, self._limit(opts))
        return self._work(works, [out], finish)

    def reduce_scatter_single_coalesced(self, outs: Sequence[Tensor], xs: Sequence[Tensor], opts: Any) -> Any:
        works, finishes = [], []
        for out, x in zip(outs, xs):
            more, finish = self._scattered(out, x, opts.reduceOp, self._limit(opts))
            works += more
            finishes.append(finish)
        return self._work(works, list(outs), _all(finishes))

    def _reduced(self, x: Tensor, op: Any, limit: float | None) -> tuple[list[Any], Place]:
        how = reduction(op, x.dtype, self.comm.size)
        place = how.place(x)
        if how.op in BITWISE:
            return [self._gloo_reduction(place.memory, how)], place
        codec = self._codec_for(how.op, x)
        work = self._start(
            self.comm.all_reduce, place.memory, how.op, codec, self._how(codec), async_op=True, timeout=limit
        )
        return [work], place

    def _scattered(
        self, out: Tensor, x: Tensor, op: Any, limit: float | None
    ) -> tuple[list[Any], Callable[[], object] | None]:
        how = reduction(op, x.dtype, self.comm.size)
        source = how.input(x)
        if how.op in BITWISE:
            whole = source.clone()
            work = self._gloo_reduction(whole, how)
            mine = whole.view(self.comm.size, -1)[self.comm.rank].view(x.dtype)
            return [work], lambda: out.detach().copy_(mine.view(out.shape))
        place = how.output(out)
        if overlap(source, place.memory):
            source = source.clone()
        codec = self._codec_for(how.op, x)
        work = self._start(
            self.comm.reduce_scatter,
            source, place.memory, how.op, codec, self._how(codec), async_op=True, timeout=limit,
        )  # fmt: skip
        return [work], place.finish

    def _gloo_reduction(self, x: Tensor, how: Reduction) -> Any:
        opts = dist.AllreduceOptions()
        opts.reduceOp = getattr(dist.ReduceOp, how.op)
        return self._gloo.allreduce([x], opts)

    def _codec_for(self, op: str, x: Tensor) -> Any:
        if self._codec is None or x.dtype not in _CODABLE or x.numel() < self._min_numel:
            return None
        return self._codec if op in ("sum", "avg") else None

    def _how(self, codec: Any) -> str:
        return "auto" if codec is None else self._algorithm

    # -- moving values ---------------------------------------------------------------------------------------
    def broadcast(self, tensors: Sequence[Tensor], opts: Any) -> Any:
        x = tensors[opts.rootTensor]
        place = place_for(x, keep=opts.rootRank == self.comm.rank)
        work = self._start(
            self.comm.broadcast, place.memory, opts.rootRank, async_op=True, timeout=self._limit(opts)
        )
        return self._work([work], [x], place.finish)

    def all_gather_single(self, out: Tensor, x: Tensor, opts: Any = None) -> Any:
        works, finish = self._gathered(out, x, self._limit(opts))
        return self._work(works, [out], finish)

    def all_gather_single_coalesced(
        self, outs: Sequence[Tensor], xs: Sequence[Tensor], opts: Any = None
    ) -> Any:
        works, finishes = [], []
        for out, x in zip(outs, xs):
            more, finish = self._gathered(out, x, self._limit(opts))
            works += more
            finishes.append(finish)
        return self._work(works, list(outs), _all(finishes))

    def _gathered(
        self, out: Tensor, x: Tensor, limit: float | None
    ) -> tuple[list[Any], Callable[[], object] | None]:
        if out.dtype != x.dtype:
            raise refused(f"all_gather needs one dtype on both sides, got {x.dtype} and {out.dtype}")
        place, source = place_for(out), movable(plain(x))
        own = place.memory.data_ptr() + self.comm.rank * source.numel() * source.element_size()
        if source.data_ptr() != own and overlap(source, place.memory):
            source = source.clone()
        work = self._start(self.comm.all_gather, source, place.memory, async_op=True, timeout=limit)
        return [work], place.finish

    def allgather(
        self, outputs: Sequence[Sequence[Tensor]], inputs: Sequence[Tensor], opts: Any = None
    ) -> Any:
        outs, x = list(_one(outputs)), _one(inputs)
        if len(outs) != self.comm.size:
            raise refused(f"all_gather needs {self.comm.size} outputs, one a rank, got {len(outs)}")
        if len({o.numel() for o in outs}) > 1:  # the same lists on every rank, so the same way
            sends = [x] * self.comm.size
            return self._work(*self._exchange(sends, outs, self._limit(opts)))
        if outs[0].numel() != x.numel():
            raise refused(f"all_gather: {x.numel()} elements go in, but outputs have {outs[0].numel()}")
        whole = torch.empty((len(outs), x.numel()), dtype=x.dtype)
        works, _ = self._gathered(whole, x, self._limit(opts))

        def give() -> None:
            for out, row in zip(outs, whole):
                out.detach().copy_(row.view(out.shape))

        return self._work(works, outs, give)

    def allgather_coalesced(
        self, outputs: Sequence[Sequence[Tensor]], inputs: Sequence[Tensor], opts: Any = None
    ) -> Any:
        parts = [self.allgather([[rank[i] for rank in outputs]], [x], opts) for i, x in enumerate(inputs)]
        return Work(parts, [t for rank in outputs for t in rank], self._reaper)

    def gather(self, outputs: Sequence[Sequence[Tensor]], inputs: Sequence[Tensor], opts: Any) -> Any:
        x, root = _one(inputs), opts.rootRank
        sends: list[Tensor | None] = [None] * self.comm.size
        sends[root] = x
        receives = list(_one(outputs)) if root == self.comm.rank else [None] * self.comm.size
        return self._work(*self._exchange(sends, receives, self._limit(opts)))

    def scatter(self, outputs: Sequence[Tensor], inputs: Sequence[Sequence[Tensor]], opts: Any) -> Any:
        out, root = _one(outputs), opts.rootRank
        receives: list[Tensor | None] = [None] * self.comm.size
        receives[root] = out
        sends = list(_one(inputs)) if root == self.comm.rank else [None] * self.comm.size
        return self._work(*self._exchange(sends, receives, self._limit(opts)))

    def alltoall(self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], opts: Any = None) -> Any:
        return self._work(*self._exchange(list(inputs), list(outputs), self._limit(opts)))

    def all_to_all_single(
        self, out: Tensor, x: Tensor, out_splits: Sequence[int], in_splits: Sequence[int], opts: Any = None
    ) -> Any:
        # Always pair by pair: whether another rank's parts are equal this one cannot know.
        place, source = place_for(out), plain(x)
        memory = place.memory if out.dtype == place.memory.dtype else place.memory.view(out.dtype)
        sends = _split(source, in_splits, self.comm.size, "input")
        receives = _split(memory.view(out.shape), out_splits, self.comm.size, "output")
        works, _, more = self._exchange(sends, receives, self._limit(opts))
        return self._work(works, [out], _all([more, place.finish]))

    def _exchange(
        self, sends: Sequence[Tensor | None], receives: Sequence[Tensor | None], limit: float | None
    ) -> tuple[list[Any], list[Tensor], Callable[[], object] | None]:
        """sends[r] goes to rank r, receives[r] is filled from there; None and nothing in it: no message."""
        size, me = self.comm.size, self.comm.rank
        if len(sends) != size or len(receives) != size:
            raise refused(f"expected a tensor for each of {size} ranks, got {len(sends)} and {len(receives)}")
        own, into = sends[me], receives[me]
        if own is not None and into is not None and into.numel():
            into.detach().copy_(own.detach().view(into.shape))
        works, finishes = [], []
        for k in range(1, size):
            to, source = (me + k) % size, (me - k) % size
            x, out = sends[to], receives[source]
            if out is not None and out.numel():
                place = place_for(out)
                finishes.append(place.finish)
                works.append(self._start(self.comm.recv, place.memory, source, async_op=True, timeout=limit))
            if x is not None and x.numel():
                works.append(self._start(self.comm.send, movable(plain(x)), to, async_op=True, timeout=limit))
        return works, [r for r in receives if r is not None], _all(finishes)

    def barrier(self, opts: Any = None) -> Any:
        work = self._start(self.comm.barrier, async_op=True, timeout=self._limit(opts))
        return self._work([work], [])

    # -- point to point --------------------------------------------------------------------------------------
    def send(self, tensors: Sequence[Tensor], dst: int, tag: int = 0) -> Any:
        return self._note(self._gloo.send([plain(_one(tensors))], dst, tag))

    def recv(self, tensors: Sequence[Tensor], src: int, tag: int = 0) -> Any:
        x = _one(tensors)
        if x.is_contiguous():
            return self._note(self._gloo.recv([x], src, tag))
        copy = torch.empty(x.shape, dtype=x.dtype)
        return self._work([self._gloo.recv([copy], src, tag)], [x], lambda: x.detach().copy_(copy))

    def recv_anysource(self, tensors: Sequence[Tensor], tag: int = 0) -> Any:
        return self._note(self._gloo.recv_anysource(list(tensors), tag))

    # -- common ----------------------------------------------------------------------------------------------
    def _limit(self, opts: Any) -> float | None:
        given = None if opts is None else opts.timeout
        # torch says "not given" with a negative one
        return self._timeout if given is None or given <= timedelta(0) else float(given.total_seconds())

    def _start(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        try:
            return call(*args, **options)
        except GradwireError as error:
            raise as_torch_raises(error) from None

    def _work(
        self, works: Sequence[Any], outputs: list[Tensor], finish: Callable[[], object] | None = None
    ) -> Any:
        return self._note(Work(works, outputs, self._reaper, finish))

    def _note(self, work: Any) -> Any:
        if self._coalesced is not None:
            self._coalesced.append(work)
        return work

    def _start_coalescing(self, device: Any = None) -> None:
        self._coalesced = []

    def _end_coalescing(self, device: Any = None) -> Any:
        works, self._coalesced = self._coalesced or [], None
        return Work(works, [], self._reaper)

    # -- life ------------------------------------------------------------------------------------------------
    def set_timeout(self, timeout: timedelta) -> None:
        self._timeout = timeout.total_seconds()
        self._gloo._set_default_timeout(timeout)

    def getBackendName(self) -> str:
        return "gradwire"

    def splitGroup(self, *_: Any) -> Any:
        raise refused("a gradwire group cannot be split or merged: torch.distributed.new_group makes another")

    mergeRemoteGroup = splitGroup

    def abort(self) -> None:
        self.comm.abort("the process group was aborted")
        self._gloo.abort()

    def shutdown(self) -> None:
        """What destroy_process_group calls. Idempotent; operations under way end with Closed."""
        self.comm.close()
        self._reaper.close()
        self._gloo.shutdown()

    # names of earlier versions of torch
    _allgather_base = all_gather_single
    _reduce_scatter_base = reduce_scatter_single
    alltoall_base = all_to_all_single
    allgather_into_tensor_coalesced = all_gather_single_coalesced
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced


def _one(tensors: Sequence[Any]) -> Any:
    if isinstance(tensors, Tensor):
        return tensors
    if len(tensors) != 1:
        raise refused(f"a rank has one device, so one tensor is expected, got {len(tensors)}")
    return tensors[0]


def _all(finishes: Sequence[Callable[[], object] | None]) -> Callable[[], object] | None:
    some = [f for f in finishes if f is not None]
    return (lambda: [f() for f in some]) if some else None


def _split(x: Tensor, sizes: Sequence[int], ranks: int, what: str) -> list[Tensor]:
    rows = x.shape[0] if x.dim() else 0
    if not sizes:
        if rows % ranks:
            raise refused(f"all_to_all: the {what}'s {rows} rows do not divide by {ranks} ranks")
        sizes = [rows // ranks] * ranks
    if sum(sizes) != rows or len(sizes) != ranks:
        raise refused(f"all_to_all: {what} splits {list(sizes)} do not fit {ranks} ranks and {rows} rows")
    return list(torch.split(x, list(sizes)))
