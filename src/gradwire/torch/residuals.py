"""What compression lost, kept per parameter, laid out per bucket.

DDP regroups parameters (after its first step, or when a graph changes), so a residual that belonged to
"bucket 3" would end up in other parameters' gradients. Here a residual belongs to a parameter; the flat
array that a bucket's operation needs is gathered once per layout and then *is* the parameters' storage, so
a steady step copies nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


class Residuals:
    """fp32, one slice per parameter, in the flat order of the bucket (which is the parameter's memory
    order)."""

    def __init__(self) -> None:
        # id -> (parameter, slice). The parameter is held: a freed one's id could be given to another.
        self._homes: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def gather(self, params: Sequence[torch.Tensor]) -> torch.Tensor:
        """One flat residual over `params`, in order; their slices move into it."""
        flat = torch.zeros(sum(p.numel() for p in params), dtype=torch.float32)
        offset = 0
        for p in params:
            home = flat[offset : offset + p.numel()]
            if id(p) in self._homes:
                home.copy_(self._homes[id(p)][1])
            self._homes[id(p)] = (p, home)
            offset += p.numel()
        return flat

    def read(self, param: torch.Tensor) -> torch.Tensor:
        """A copy; zeros for a parameter that has lost nothing yet (checkpoints ask before the first step)."""
        if id(param) in self._homes:
            return self._homes[id(param)][1].clone()
        return torch.zeros(param.numel(), dtype=torch.float32)

    def write(self, param: torch.Tensor, value: torch.Tensor) -> None:
        if id(param) not in self._homes:
            self.gather([param])
        self._homes[id(param)][1].copy_(value.reshape(-1))

    def norm(self) -> float:
        """L2 norm over everything held."""
        squares = [float(home.double().square().sum()) for _, home in self._homes.values()]
        return math.sqrt(sum(squares))
