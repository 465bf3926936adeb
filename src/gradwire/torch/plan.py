"""How one bucket travels: which elements are coded and how, which stay dense, and the residual that goes with
them.

A bucket is a row of *sections*, each coded as one array; of *matrices* that PowerSGD averages; and of
*holes*, the elements that stay dense (biases, norms: few and small). Holes are copied out and replaced by
zeros, the sections are coded in place, the holes travel as one small dense operation beside them and are
copied back. So the large part is never copied, and the price is a codec's few bits for elements that are
zero. With one codec for all the whole bucket is one section.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gradwire.codecs import Codec
from gradwire.feedback import pay
from gradwire.global_topk import GlobalTopK
from gradwire.policy import Auto
from gradwire.powersgd import Item, PowerSGD, matrix_shape

from .residuals import BucketLoan, Residuals
from .rules import Rules

Held = list[tuple[torch.Tensor, torch.Tensor]]  # (slice of a residual, what was in it)


@dataclass
class Section:
    codec: Codec | GlobalTopK | Auto
    name: str  # of its first parameter
    begin: int
    end: int


@dataclass(frozen=True)
class Matrix:
    reducer: PowerSGD
    name: str
    offset: int
    shape: tuple[int, int]


def _any_nonzero(x: torch.Tensor) -> bool:
    """Looks at ever longer pieces: a live gradient is recognised after a few elements, not after a full
    pass."""
    begin, length = 0, 64
    while begin < x.numel():
        if bool(x[begin : begin + length].any()):
            return True
        begin, length = begin + length, length * 8
    return False


class BucketPlan:
    """Built once per bucket layout and stage."""

    def __init__(
        self,
        params: Sequence[torch.Tensor],
        buffer: torch.Tensor,
        rules: Rules,
        residuals: Residuals | None,
        step: int = 0,
    ):
        self.params = tuple(params)
        self.rules, self.stage = rules, rules.policy.stage(step)
        self.sections: list[Section] = []
        self.matrices: list[Matrix] = []
        self.coded: list[tuple[int, int]] = []  # (offset, elements)
        dense: list[tuple[int, int]] = []
        parts: list[torch.Tensor | int] = []
        # what an earlier stage lost of parameters that are dense from now on
        self._owing: list[tuple[int, torch.Tensor]] = []
        offset, open_section = 0, None
        for i, p in enumerate(params):
            end, choice = offset + p.numel(), rules.choice(p, step)
            if choice is None:
                dense.append((offset, p.numel()))
                if residuals is not None and rules.may_code(p):
                    self._owing.append((offset, p))
                if open_section is not None:
                    open_section.end = end
            else:
                self.coded.append((offset, p.numel()))
                if isinstance(choice, PowerSGD):
                    shape = matrix_shape(p.shape)
                    self.matrices.append(Matrix(choice, rules.name(p), offset, shape))
                    open_section = None
                elif open_section is not None and open_section.codec is choice:
                    open_section.end = end
                else:
                    begin = 0 if len(dense) == i else offset
                    open_section = Section(choice, rules.name(p), begin, end)
                    self.sections.append(open_section)
            feeds_back = choice is not None and getattr(choice, "error_feedback", True)
            parts.append(p if feeds_back else p.numel())
            offset = end
        holes = [torch.arange(at, at + n) for at, n in dense]
        self.holes = torch.cat(holes) if self.coded and holes else None
        self.pack = torch.empty(self.holes.numel(), dtype=buffer.dtype) if self.holes is not None else None
        self._residuals, self._parts = residuals, parts
        self._owes = True  # residuals, maybe, and nothing is being coded that takes them along
        self._firsts = torch.tensor([at for at, _ in self.coded], dtype=torch.int64)

    def fits(self, params: Sequence[torch.Tensor]) -> bool:
        return len(params) == len(self.params) and all(a is b for a, b in zip(params, self.params))

    def of_stage(self, rules: Rules, step: int) -> bool:
        return self.rules is rules and self.stage == rules.policy.stage(step)

    def settle(self, flat: torch.Tensor) -> None:
        """Adds to the gradients of dense parameters what coded steps owe them, once; an unused parameter
        waits."""
        for offset, param in list(self._owing):
            values = flat[offset : offset + param.numel()]
            assert self._residuals is not None
            owed = self._residuals.read(param)
            if not owed.any():
                self._owing.remove((offset, param))
            elif _any_nonzero(values):
                pay(values, owed)
                self._residuals.write(param, owed)
                self._owing.remove((offset, param))

    def codecs(self, flat: torch.Tensor, comm: Any) -> list[Codec | GlobalTopK | None]:
        """Of the sections, this time. "auto" may take none."""
        return [
            comm.auto_codec(flat[s.begin : s.end], "avg") if isinstance(s.codec, Auto) else s.codec
            for s in self.sections
        ]

    def lend(self, codes: bool = True) -> BucketLoan | None:
        """The bucket's residual for one operation. None where nothing is coded or error feedback is off, and
        if this operation codes nothing and no residual is left of earlier ones."""
        if self._residuals is None or not self.coded or not (codes or self._owes):
            return None
        self._owes = self._owes or codes
        return self._residuals.lend(self._parts)

    def pay_all(self, flat: torch.Tensor, loan: BucketLoan | None, held: Held) -> None:
        """Before a bucket of which nothing is coded."""
        if loan is not None:
            pay(flat, loan.flat)
            self._owes = bool(held) or bool(loan.flat.any())

    def global_topk(self, flat: torch.Tensor, loan: BucketLoan | None, comm: Any, timeout: Any) -> None:
        """Averages the sections of which the largest values travel, in place; returns when it is done."""
        for s in self.sections:
            if not isinstance(s.codec, GlobalTopK):
                continue
            values = flat[s.begin : s.end]
            if loan is not None and s.codec.error_feedback:
                value = loan.flat[s.begin : s.end].add_(values)
            else:
                value = values.to(torch.float32, copy=True)
            out = values if values.dtype == torch.float32 else torch.empty_like(value)
            s.codec.reduce(comm, value.numpy(), out.numpy(), name=s.name, timeout=timeout)
            if out is not values:
                values.copy_(out)

    def low_rank(self, flat: torch.Tensor, loan: BucketLoan | None, comm: Any, **how: Any) -> None:
        """Averages the matrices, in place; returns when it is done."""
        for reducer in {id(m.reducer): m.reducer for m in self.matrices}.values():
            items, outs = [], []
            for m in self.matrices:
                if m.reducer is not reducer:
                    continue
                place = slice(m.offset, m.offset + m.shape[0] * m.shape[1])
                values = flat[place]
                if loan is not None and reducer.error_feedback:
                    value = loan.flat[place].add_(values)
                else:
                    value = values.to(torch.float32, copy=True)
                out = values if values.dtype == torch.float32 else torch.empty_like(value)
                outs.append((values, out))
                items.append(Item(m.name, value.view(m.shape).numpy(), out.view(m.shape).numpy()))
            reducer.reduce(comm, items, **how)
            for values, out in outs:
                if out is not values:
                    values.copy_(out)

    def take_holes(self, flat: torch.Tensor) -> torch.Tensor | None:
        """Moves the dense elements out of `flat`, leaving zeros; returns them packed."""
        if self.holes is None or self.pack is None:
            return None
        torch.index_select(flat, 0, self.holes, out=self.pack)
        flat.index_fill_(0, self.holes, 0)
        return self.pack

    def restore(
        self, flat: torch.Tensor, loan: BucketLoan | None, held: Held, pack: torch.Tensor | None
    ) -> None:
        """After the operations: puts back what `take_holes` and `hold_silent` took out, and the residual."""
        for slice_, kept in held:
            slice_.add_(kept)
        if self.holes is not None and pack is not None:
            flat.index_copy_(0, self.holes, pack)
        if loan is not None:
            loan.give_back()

    def hold_silent(self, flat: torch.Tensor, loan: BucketLoan | None) -> Held:
        """Takes the residual of parameters whose local gradient is all zero out of this operation.

        Such a parameter was not used here (find_unused_parameters, a joined rank's empty buckets). If no
        rank used it, DDP throws the result away, and a residual sent with it would be lost; nothing but
        zeros tells the hook so. Returns (slice, kept values), to be added back by `restore` once the
        operation is done."""
        if loan is None:
            return []
        live = flat.index_select(0, self._firsts) != 0  # one probe per parameter settles nearly all of them
        if bool(live.all()):
            return []
        held = []
        for (offset, numel), alive in zip(self.coded, live.tolist()):
            if not alive and not _any_nonzero(flat[offset : offset + numel]):
                slice_ = loan.flat[offset : offset + numel]
                held.append((slice_, slice_.clone()))
                slice_.zero_()
        return held
