"""Where a parameter's elements lie in the flat arrays that FSDP2 sends.

A module's reduce-scatter takes [ranks, count]: row r holds, parameter after parameter, the padded part that
rank r keeps. Residuals lie in the same order while they are in use; a checkpoint keeps them by parameter, in
the parameter's own shape, which means the same to any number of ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Piece:
    """name: the model's. size: the whole parameter's. shard: one rank's part, padded. dim: which is cut."""

    name: str
    size: torch.Size
    shard: torch.Size
    dim: int


class Layout:
    """pieces: the parameters in FSDP's order. ranks: how many share them.

    count: elements of one rank's row."""

    def __init__(self, pieces: Sequence[Piece], ranks: int) -> None:
        self.pieces, self.ranks = tuple(pieces), ranks
        self.count = sum(p.shard.numel() for p in pieces)

    def unpack(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """[ranks * count] -> every parameter's elements, flat, without padding."""
        rows = flat.view(self.ranks, self.count)
        found, at = {}, 0
        for p in self.pieces:
            end = at + p.shard.numel()
            whole = torch.cat([row[at:end].view(p.shard) for row in rows], dim=p.dim)
            found[p.name] = whole.narrow(p.dim, 0, p.size[p.dim]).reshape(-1)
            at = end
        return found

    def pack(self, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The opposite; padding is zero."""
        rows = torch.zeros(self.ranks, self.count)
        at = 0
        for p in self.pieces:
            end = at + p.shard.numel()
            for row, part in zip(rows, torch.split(values[p.name].view(p.size), p.shard[p.dim], p.dim)):
                place = row[at:end].view(p.shard)
                place.narrow(p.dim, 0, part.shape[p.dim]).copy_(part)
            at = end
        return rows.view(-1)

    def padding(self) -> torch.Tensor:
        """Which of the ranks * count elements belong to no parameter: indices."""
        return (self.pack({p.name: torch.ones(p.size.numel()) for p in self.pieces}) == 0).nonzero().view(-1)

    def spread(self, row: int, values: torch.Tensor) -> torch.Tensor:
        """[count], the part of one rank -> [ranks * count], zero elsewhere."""
        rows = torch.zeros(self.ranks, self.count)
        rows[row] = values
        return rows.view(-1)
