"""From how many bytes two-shot beats one-shot, as timings imply it: what `init(gpu_peers=True)` goes by here.

Virtual ranks share one GPU: neither values nor signals cross a link, and all read one memory. So the
bounds are a start for GPUs linked by NVLink, not the last word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gpu_suite.bars import faster

from gradwire import gpu_peers
from gradwire.bench.arguments import human_size

Row = dict[str, Any]


def rows(timed: Sequence[Row]) -> Iterator[Row]:
    """A row per codec and number of ranks. ratios: [size, time of two-shot over that of one-shot]."""
    asked = [r for r in timed if r["part"] == "all_reduce" and r["seconds"]]
    for codec in dict.fromkeys(r["codec"] for r in asked):
        for n in sorted({r["ranks"] for r in asked}):
            one, two = (
                {r["size"]: r for r in asked if (r["codec"], r["ranks"], r["stage"]) == (codec, n, stage)}
                for stage in ("one-shot", "two-shot")
            )
            ratios = [(size, faster(one[size], two[size])) for size in sorted(one.keys() & two.keys())]
            if ratios:
                what = {"part": "bound", "entry": "one-shot below", "codec": codec, "ranks": n}
                yield {**what, "size": bound(ratios), "ratios": ratios, "wrong": None, "skipped": None}


def bound(ratios: Sequence[tuple[int, float]]) -> int | None:
    """The size from which two-shot loses least over all larger ones; None: one-shot is better throughout.

    Times are weighed by their logarithms, so that neither one noisy size nor the largest decides alone.
    """
    cost = np.cumsum([np.log(ratio) for _, ratio in reversed(ratios)])[::-1]
    best = int(np.argmin(cost))
    return ratios[best][0] if cost[best] < 0 else None


def keep(found: Sequence[Row]) -> Path | None:
    """Where communicators of this machine will read the bounds of plain arrays from; None: none was timed.

    "auto" has one table, by the bytes of the array, for all codecs; coded ones would take one-shot up to
    larger arrays.
    """
    plain = {row["ranks"]: row["size"] for row in found if row["codec"] is None}
    return gpu_peers.save(plain) if plain else None


def table(found: Sequence[Row]) -> list[str]:
    """In the form of peer_choice.hpp, a line a codec; more ranks than were timed take two-shot."""
    lines = []
    for codec in dict.fromkeys(row["codec"] for row in found):
        of_codec = [row for row in found if row["codec"] == codec]
        inner = ", ".join(f"{{{row['ranks']}, {_bytes(row['size'])}}}" for row in of_codec)
        sizes = [size for row in of_codec for size, _ in row["ratios"]]
        span = f"{human_size(min(sizes))} to {human_size(max(sizes))}"
        lines.append(f"kPeerBounds[] = {{{inner}}};  // {codec or 'plain'}, timed at {span}")
    return lines


def _bytes(size: int | None) -> str:
    if size is None:
        return "~size_t{0}"
    return str(size) if size % 1024 else f"{size >> 10} << 10"
