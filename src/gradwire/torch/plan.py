"""How one bucket travels: which elements are coded, which stay dense, and the residual that goes with them.

A bucket is all dense, all coded, or coded with *holes*. Holes are the elements of parameters the policy
keeps dense (biases, norms: few and small). They are copied out and replaced by zeros, the whole bucket is
coded in place, the holes travel as one small dense operation beside it and are copied back. So the large
part is never copied, and the price is a codec's few bits for elements that are zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .residuals import BucketLoan, Residuals

Held = list[tuple[torch.Tensor, torch.Tensor]]  # (slice of a residual, what was in it)


@dataclass(frozen=True)
class Policy:
    """Which parameters are coded: those with at least two dimensions and `min_numel` elements."""

    dense_1d: bool = True
    min_numel: int = 1024

    def codes(self, param: torch.Tensor) -> bool:
        if param.numel() < self.min_numel:
            return False
        return param.dim() >= 2 or not self.dense_1d


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
    """Built once per bucket layout."""

    def __init__(
        self,
        params: Sequence[torch.Tensor],
        buffer: torch.Tensor,
        policy: Policy,
        residuals: Residuals | None,
    ):
        self.params = tuple(params)
        coded, holes, firsts = [], [], []  # holes, firsts: flat offsets
        parts: list[torch.Tensor | int] = []
        offset = 0
        for p in params:
            if policy.codes(p):
                coded.append((offset, p.numel()))
                firsts.append(offset)
                parts.append(p)
            else:
                holes.append(torch.arange(offset, offset + p.numel()))
                parts.append(p.numel())
            offset += p.numel()
        self.coded = coded
        self.holes = torch.cat(holes) if coded and holes else None
        self.pack = torch.empty(self.holes.numel(), dtype=buffer.dtype) if self.holes is not None else None
        self._residuals, self._parts = (residuals if coded else None), parts
        self._firsts = torch.tensor(firsts, dtype=torch.int64)

    def fits(self, params: Sequence[torch.Tensor]) -> bool:
        return len(params) == len(self.params) and all(a is b for a, b in zip(params, self.params))

    def lend(self) -> BucketLoan | None:
        """The bucket's residual for one operation. None where nothing is coded or error feedback is off."""
        return self._residuals.lend(self._parts) if self._residuals is not None else None

    def take_holes(self, flat: torch.Tensor) -> torch.Tensor | None:
        """Moves the dense elements out of `flat`, leaving zeros; returns them packed."""
        if self.holes is None or self.pack is None:
            return None
        torch.index_select(flat, 0, self.holes, out=self.pack)
        flat.index_fill_(0, self.holes, 0)
        return self.pack

    def restore(self, flat: torch.Tensor, loan: BucketLoan | None, held: Held) -> None:
        """After the operations: puts back what `take_holes` and `hold_silent` took out, and the residual."""
        for slice_, kept in held:
            slice_.add_(kept)
        if self.holes is not None and self.pack is not None:
            flat.index_copy_(0, self.holes, self.pack)
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
