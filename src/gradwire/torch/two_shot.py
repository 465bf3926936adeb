"""The engine's "direct" algorithm on the collectives of a torch process group: the same payloads, sums and
residuals.

    encode chunk c for rank c -> all_to_all_single -> decode and add in rank order, in fp32 -> encode the sum
    once -> all_gather_into_tensor -> every rank, the owner too, takes what those bytes decode to
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from gradwire.codecs import Codec
from gradwire.errors import FrameError

from . import private
from .device import Host

Tensor = torch.Tensor
Cuts = Sequence[tuple[int, int]]  # begin and end of every rank's chunk


class How(NamedTuple):
    """seq: number of the operation, for codecs that draw at random. limit: seconds for each collective of the
    group; None: what the group allows. place: where the tensors are, and are coded."""

    codec: Codec
    seq: int
    limit: float | None
    place: Host


class _Under(NamedTuple):
    """A collective under way: what it fills with one payload per rank, of which sizes, for which chunks."""

    work: Any
    bytes: Tensor
    sizes: Sequence[int]
    cuts: Cuts


class TwoShot:
    """Coded collectives of one group, one at a time. x, out: flat float tensors. owed: the residual, float32,
    as many elements as x."""

    # Elements of a chunk that are under way at a time, at most; half a millisecond or so of coding.
    piece = 1 << 19

    def __init__(self, group: Any, rank: int, size: int) -> None:
        self.group, self.rank, self.size = group, rank, size
        self.sent = 0  # bytes, as the group's best algorithm would send them
        self._rooms: dict[tuple[str, Host], Tensor] = {}

    def all_reduce(self, x: Tensor, op: str, how: How, owed: Tensor | None) -> None:
        if self.size == 1:
            if owed is not None:  # what an earlier, larger world left is paid out
                x.copy_(x.to(torch.float32) + owed)
                owed.zero_()
            return
        # Piece by piece: one is on its way while another is coded. All ranks issue them in this order.
        pieces = self._pieces(x, how.codec)
        asked, told = [], []
        for j in range(len(pieces) + 2):
            if j < len(pieces):
                asked.append(self._ask(x, how, owed, pieces[j], j % 3))
            if 0 < j <= len(pieces):
                total = self._fold(asked[j - 1], x, op, how, owed)
                begin, end = pieces[j - 1][self.rank]
                lost = None if owed is None else owed[begin:end]
                if lost is not None:
                    lost.fill_(-0.0)  # added before encoding: the one number that leaves -0 as it is
                told.append(self._tell(total, how, lost, pieces[j - 1], (j - 1) % 3))
                if lost is not None and op == "avg":
                    lost.mul_(self.size)  # in units of one rank's share
            if j > 1:
                self._take(told[j - 2], x, how)

    def reduce_scatter(
        self,
        x: Tensor,
        out: Tensor,
        op: str,
        how: How,
        owed: Tensor | None,
    ) -> None:
        cuts = self._shares(x.numel() // self.size)
        out.copy_(self._fold(self._ask(x, how, owed, cuts, 0), x, op, how, owed))
        if owed is not None:
            owed[slice(*cuts[self.rank])].zero_()  # paid, and nothing lost

    def all_gather(self, x: Tensor, out: Tensor, how: How) -> None:
        self._take(self._tell(x, how, None, self._shares(x.numel()), 0), out, how)

    def broadcast(self, x: Tensor, root: int, how: How) -> None:
        size = how.codec.encoded_bytes(x.numel())
        payload = self._room("send", size, how)
        if self.rank == root and x.numel():
            size = _encode(x, how, payload, None, (0, root))
        source = dist.get_global_rank(self.group, root)
        if not how.codec.fixed_size:
            told = torch.tensor([size])
            wait_for(dist.broadcast(told, source, group=self.group, async_op=True), how.limit)
            (size,) = _believed(told.tolist(), [payload.numel()], [root])
        wait_for(dist.broadcast(payload[:size], source, group=self.group, async_op=True), how.limit)
        self._decode(payload[:size], how, x, 0)

    def rooms(self) -> int:
        return sum(r.numel() for r in self._rooms.values())

    # -- steps -----------------------------------------------------------------------------------------------
    def _pieces(self, x: Tensor, codec: Codec) -> list[Cuts]:
        """The j-th part of every rank's chunk; chunk r is rank r's. Cut at whole blocks and cache lines, as
        the engine cuts chunks."""
        line = max(codec.block, 64 // x.element_size())
        each = math.ceil(math.ceil(x.numel() / self.size) / line) * line
        part = max(1, self.piece // line) * line
        ends = [(r * each, min(x.numel(), (r + 1) * each)) for r in range(self.size)]
        return [
            [(at + j, min(at + j + part, end)) if at + j < end else (end, end) for at, end in ends]
            for j in range(0, max(each, 1), part)
        ]

    def _ask(self, x: Tensor, how: How, owed: Tensor | None, cuts: Cuts, turn: int) -> _Under:
        """Sends every rank its chunk of this rank's values."""
        parts, sizes = self._encoded(x, how, owed, cuts, turn)
        begin, end = cuts[self.rank]
        bound = how.codec.encoded_bytes(end - begin)
        come = [0 if r == self.rank else bound for r in range(self.size)]
        if not how.codec.fixed_size:
            come = self._sizes(sizes, bound, how)
        got = self._room(f"receive{turn}", sum(come), how)
        work = dist.all_to_all_single(got, parts, come, sizes, group=self.group, async_op=True)
        self.sent += sum(sizes)
        return _Under(work, got, come, cuts)

    def _fold(self, asked: _Under, x: Tensor, op: str, how: How, owed: Tensor | None) -> Tensor:
        """Everybody's values of this rank's chunk: float32, valid until the next call."""
        wait_for(asked.work, how.limit)
        begin, end = asked.cuts[self.rank]
        total = self._room("sum", 4 * (end - begin), how).view(torch.float32)
        for r, payload in enumerate(torch.split(asked.bytes, list(asked.sizes))):
            if r == self.rank:
                own = x[begin:end].to(torch.float32)
                own = own if owed is None else own + owed[begin:end]
                total.add_(own) if r else total.copy_(own)
            else:
                self._decode(payload, how, total, begin, add=r > 0)
        return total if op != "avg" else total.mul_(1.0 / self.size)

    def _encoded(
        self, x: Tensor, how: How, owed: Tensor | None, cuts: Cuts, turn: int
    ) -> tuple[Tensor, list[int]]:
        """(the other ranks' chunks, one payload after the other; bytes of each)."""
        room = self._room(
            f"send{turn}", sum(how.codec.encoded_bytes(end - begin) for begin, end in cuts), how
        )
        sizes, at = [], 0
        for r, (begin, end) in enumerate(cuts):
            written = 0
            if r != self.rank and end > begin:
                bound = how.codec.encoded_bytes(end - begin)
                residual = None if owed is None else owed[begin:end]
                written = _encode(x[begin:end], how, room[at : at + bound], residual, (begin, self.rank))
            sizes.append(written)
            at += written
        return room[:at], sizes

    def _sizes(self, mine: list[int], bound: int, how: How) -> list[int]:
        told, come = torch.tensor(mine), torch.empty(self.size, dtype=torch.int64)
        wait_for(dist.all_to_all_single(come, told, group=self.group, async_op=True), how.limit)
        come[self.rank] = 0
        return _believed(come.tolist(), [bound] * self.size, range(self.size))

    def _tell(self, value: Tensor, how: How, lost: Tensor | None, cuts: Cuts, turn: int) -> _Under:
        """Sends everybody this rank's finished chunk, encoded once."""
        bounds = [how.codec.encoded_bytes(end - begin) for begin, end in cuts]
        begin, end = cuts[self.rank]
        mine, size = self._room(f"mine{turn}", max(bounds), how), 0
        if end > begin:
            size = _encode(value, how, mine[: bounds[self.rank]], lost, (begin, self.rank))
        sizes, pad = bounds, max(bounds)
        if not how.codec.fixed_size:
            come = torch.empty(self.size, dtype=torch.int64)
            told = torch.tensor([size])
            wait_for(private.all_gather_single(come, told, group=self.group, async_op=True), how.limit)
            sizes = _believed(come.tolist(), bounds, range(self.size))
            pad = max(sizes)
        every = self._room(f"every{turn}", self.size * pad, how)
        work = private.all_gather_single(every, mine[:pad], group=self.group, async_op=True)
        self.sent += pad * (self.size - 1)
        return _Under(work, every, sizes, cuts)

    def _take(self, told: _Under, out: Tensor, how: How) -> None:
        """Every rank's chunk; the owner, too, takes what its own bytes decode to."""
        wait_for(told.work, how.limit)
        pad = told.bytes.numel() // self.size
        for r, (begin, end) in enumerate(told.cuts):
            self._decode(told.bytes[r * pad : r * pad + told.sizes[r]], how, out[begin:end], begin)

    @staticmethod
    def _decode(payload: Tensor, how: How, out: Tensor, first: int, *, add: bool = False) -> None:
        if out.numel():
            place = how.place
            place.kernels.dequantize(
                place.array(payload), how.codec, place.array(out), how.seq, first=first, add=add
            )

    def _shares(self, count: int) -> Cuts:
        return [(r * count, (r + 1) * count) for r in range(self.size)]

    def _room(self, name: str, size: int, how: How) -> Tensor:
        """Operations of a place run one after the other, so each may have the last one's memory."""
        room = self._rooms.get((name, how.place))
        if room is None or room.numel() < size:
            room = torch.empty(max(size, 64), dtype=torch.uint8, device=how.place.device)
            self._rooms[name, how.place] = room
        return room[:size]


def _encode(x: Tensor, how: How, payload: Tensor, lost: Tensor | None, of: tuple[int, int]) -> int:
    """of: (place of the first element in the whole array, rank whose values these are). Bytes written."""
    place, (first, rank) = how.place, of
    written: int = place.kernels.quantize(
        place.array(x),
        how.codec,
        place.array(payload),
        how.seq,
        residual=None if lost is None else place.array(lost),
        first=first,
        stream=rank,
    )
    return written


def wait_for(work: Any, limit: float | None) -> None:
    work.wait() if limit is None else work.wait(timedelta(seconds=limit))


def _believed(sizes: list[int], bounds: list[int], ranks: Sequence[int]) -> list[int]:
    for rank, size, bound in zip(ranks, sizes, bounds):
        if not 0 <= size <= bound:
            error = FrameError(
                f"rank {rank} announced a payload of {size} bytes, the most it can be is {bound}"
            )
            error.rank = rank
            raise error
    return sizes
