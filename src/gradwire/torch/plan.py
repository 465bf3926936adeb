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

from .device import Host
from .residuals import BucketLoan, Residuals
from .rules import Rules
from .silent import GiveBack, Silent, any_nonzero


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


class BucketPlan:
    """Built once per bucket layout and stage. place: where the buffer lies."""

    def __init__(
        self,
        params: Sequence[torch.Tensor],
        buffer: torch.Tensor,
        rules: Rules,
        residuals: Residuals | None,
        *,
        place: Host,
        step: int = 0,
    ):
        self.params, self.place = tuple(params), place
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
        self.holes = torch.cat(holes).to(buffer.device) if self.coded and holes else None
        self.pack = buffer.new_empty(self.holes.numel()) if self.holes is not None else None
        self._residuals, self._parts = residuals, parts
        self._owes = True  # residuals, maybe, and nothing is being coded that takes them along
        self._silent = Silent(self.coded, buffer.device)

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
            owed = self._residuals.read(param).to(values.device)
            if not owed.any():
                self._owing.remove((offset, param))
            elif any_nonzero(values):
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
        return self._residuals.lend(self._parts, self.place)

    def pay_all(self, flat: torch.Tensor, loan: BucketLoan | None, held: GiveBack | None) -> None:
        """Before a bucket of which nothing is coded."""
        if loan is not None:
            pay(flat, loan.flat)
            self._owes = held is not None or bool(loan.flat.any())

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
            with self.place.arrays(value, out) as (kept, result):
                s.codec.reduce(comm, kept, result, name=s.name, timeout=timeout)
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
                here, out = _on_host(value, values)
                outs.append((here, value, out, values))
                items.append(Item(m.name, here.view(m.shape).numpy(), out.view(m.shape).numpy()))
            reducer.reduce(comm, items, **how)
            for moved in outs:
                _put_back(*moved)

    def take_holes(self, flat: torch.Tensor) -> torch.Tensor | None:
        """Moves the dense elements out of `flat`, leaving zeros; returns them packed."""
        if self.holes is None or self.pack is None:
            return None
        torch.index_select(flat, 0, self.holes, out=self.pack)
        flat.index_fill_(0, self.holes, 0)
        return self.pack

    def restore(
        self, flat: torch.Tensor, loan: BucketLoan | None, held: GiveBack | None, pack: torch.Tensor | None
    ) -> None:
        """After the operations: puts back what `take_holes` and `hold_silent` took out, and the residual."""
        if held is not None:
            held()
        if self.holes is not None and pack is not None:
            flat.index_copy_(0, self.holes, pack)
        if loan is not None:
            loan.give_back()

    def hold_silent(self, flat: torch.Tensor, loan: BucketLoan | None) -> GiveBack | None:
        """Takes the residual of parameters that were not used here out of this operation; `restore` brings it
        back."""
        if loan is None:
            return None
        hold = self._silent.hold if self.place.answers else self._silent.hold_unasked
        return hold(flat, loan.flat)


def _on_host(value: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For PowerSGD, which works in host memory: value, and room for the result, which is `values` itself if
    that can take it. From a GPU they are copied, on the reaper's thread; it alone waits for that."""
    here = value.cpu()
    there = values.dtype == torch.float32 and values.device == here.device
    return here, values if there else torch.empty_like(here)


def _put_back(here: torch.Tensor, value: torch.Tensor, out: torch.Tensor, values: torch.Tensor) -> None:
    value.copy_(here)  # does nothing if they are one
    if out is not values:
        values.copy_(out)
