"""Parameters whose gradient is all zeros on this rank: their residual stays at home.

Such a parameter was not used here (find_unused_parameters, a joined rank's empty buckets). If no rank used
it, DDP throws the average away, and a residual sent with it would be lost; nothing but zeros tells the hook
so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from . import private

GiveBack = Callable[[], object]


def any_nonzero(x: torch.Tensor) -> bool:
    """Looks at ever longer pieces: a live gradient is recognised after a few elements, not after a full
    pass."""
    begin, length = 0, 64
    while begin < x.numel():
        if bool(x[begin : begin + length].any()):
            return True
        begin, length = begin + length, length * 8
    return False


class Silent:
    """coded: (offset, elements) of the parameters of a bucket that have a residual."""

    def __init__(self, coded: Sequence[tuple[int, int]], device: torch.device) -> None:
        self._coded = [(at, n) for at, n in coded if n]
        self._firsts = torch.tensor([at for at, _ in self._coded], dtype=torch.int64, device=device)
        ends = [0]
        for at, n in self._coded:  # what lies between two of them, then the second
            ends += [at, at + n]
        self._lengths = torch.tensor([b - a for a, b in zip(ends, ends[1:])], device=device)
        self._end = ends[-1]

    def hold(self, flat: torch.Tensor, residual: torch.Tensor) -> GiveBack | None:
        """Takes the residuals of silent parameters out. To be called once the operation is done: adds them
        again; None: there were none."""
        live = flat.index_select(0, self._firsts) != 0  # one probe per parameter settles nearly all of them
        if bool(live.all()):
            return None
        held = []
        for (offset, numel), alive in zip(self._coded, live.tolist()):
            if not alive and not any_nonzero(flat[offset : offset + numel]):
                part = residual[offset : offset + numel]
                held.append((part, part.clone()))
                part.zero_()
        return (lambda: [part.add_(kept) for part, kept in held]) if held else None

    def hold_unasked(self, flat: torch.Tensor, residual: torch.Tensor) -> GiveBack | None:
        """The same on a GPU, which would first finish what it has been given if it were asked: costs one read
        of the gradient, two of the residual, and a copy of it."""
        if not self._coded:
            return None
        largest = torch.stack(private.largest([flat[at : at + n] for at, n in self._coded]))
        silent = torch.stack((torch.zeros_like(largest, dtype=torch.bool), largest == 0), dim=1).view(-1)
        silent = silent.repeat_interleave(self._lengths, output_size=self._end)
        residual = residual[: self._end]
        kept = residual.masked_fill(~silent, 0.0)
        residual.masked_fill_(silent, 0.0)
        return lambda: torch.where(silent, residual + kept, residual, out=residual)
