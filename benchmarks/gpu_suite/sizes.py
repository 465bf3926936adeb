"""Sizes in bytes of fp32: those of the bars, and what is run."""

from __future__ import annotations

from dataclasses import dataclass

MEDIUM = 25 << 20  # a bucket of DDP: it and its payload lie in the L2 cache of a large GPU
LARGE = 400 << 20  # far larger than any L2: what is measured is memory
REDUCED = 100 << 20  # of each virtual rank, for the floors


@dataclass(frozen=True)
class Sizes:
    """codec, all_reduce: timed. copied: of the copy behind the floors. checked: largest counts compared."""

    codec: str = "1m,25m,400m"
    all_reduce: str = "64k,128k,256k,512k,1m,4m,25m,100m"  # the small ones tell one-shot from two-shot
    copied: int = LARGE
    checked: int = 1_000_000
    reduced: int = 100_000
    replays: int = 100


TINY = Sizes("16k", "1k,4k", copied=16 << 10, checked=2_000, reduced=500, replays=2)  # on the simulator
