"""What codec="auto" costs where it takes none: calls with it and without it, in turn, by the same ranks.

    torchrun --nproc-per-node 2 benchmarks/auto_codec.py            # shared memory
    torchrun --nproc-per-node 4 benchmarks/auto_codec.py --tcp      # loopback

Prints a line a size: the median time of a call without, and the median of the ratios of neighbouring batches
with its quartiles. `none` is a control: the same loop, none against none.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

BATCH = 20


def pairs(comm: Any, array: Any, other: str | None, turns: int) -> tuple[float, Any]:
    """Seconds of a call without a codec; the quartiles of `other`'s over it."""
    taken: tuple[list[float], list[float]] = ([], [])
    for turn in range(turns):
        for which in (turn % 2, 1 - turn % 2):
            array[:] = 0
            comm.barrier()
            start = time.perf_counter()
            for _ in range(BATCH):
                comm.all_reduce(array, "sum", other if which else None)
            taken[which].append((time.perf_counter() - start) / BATCH)
    return float(np.median(taken[0])), np.quantile(np.divide(taken[1], taken[0]), (0.5, 0.25, 0.75))


def main() -> None:
    import gradwire
    from gradwire.trials import own_cores

    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tcp", action="store_true", help="over loopback")
    p.add_argument("--turns", type=int, default=300)
    args = p.parse_args()
    with gradwire.init(transport="tcp" if args.tcp else "auto") as comm, own_cores(comm):
        for nbytes in (4, 1 << 10, 1 << 14, 1 << 16):
            array = np.zeros(nbytes // 4, np.float32)
            for other in ("auto", None):
                seconds, (middle, low, high) = pairs(comm, array, other, args.turns)
                if comm.rank == 0:
                    ratio = f"{other or 'none':4} over none {middle:.3f} ({low:.3f} to {high:.3f})"
                    print(f"{comm.size} ranks, {nbytes:>5} B: {1e6 * seconds:6.2f} us, {ratio}", flush=True)


if __name__ == "__main__":
    main()
