"""What torch.distributed's own calls cost on the "gradwire" backend and on Gloo, and a codec over a carrier.

    python benchmarks/process_group.py [--ranks 2] [--rounds 7] [--sizes 4,1k,1m,25m]

Every round times every way once, in an order that rotates; a time is the median over the rounds, +- half
their interquartile range, of rank 0, in us a call. Results are checked before anything is timed.

    sync     dist.all_reduce(x)
    async    dist.all_reduce(x, async_op=True).wait()
    carrier  Carrier(gloo).all_reduce(x, codec="int8")
    engine   the same on a communicator, algorithm "direct"
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta

from gradwire.bench.arguments import parse_sizes
from gradwire.bench.processes import Command, run_ranks


def worker(args: argparse.Namespace) -> None:
    import torch
    import torch.distributed as dist

    import gradwire.torch

    torch.set_num_threads(1)
    store = dist.FileStore(f"{args.store}/torch", args.ranks)
    dist.init_process_group(
        "gradwire", store=store, rank=args.rank, world_size=args.ranks, timeout=timedelta(seconds=60)
    )
    gloo = dist.new_group(backend="gloo")
    carrier, engine = gradwire.torch.Carrier(gloo), gradwire.torch.communicator()
    # x is zero while it is timed: sums then stay what they are
    ways: dict[str, Callable[[torch.Tensor], object]] = {
        "gradwire sync": dist.all_reduce,
        "gloo sync": lambda x: dist.all_reduce(x, group=gloo),
        "gradwire async": lambda x: dist.all_reduce(x, async_op=True).wait(),
        "gloo async": lambda x: dist.all_reduce(x, group=gloo, async_op=True).wait(),
        "int8 carrier": lambda x: carrier.all_reduce(x, codec="int8"),
        "int8 engine": lambda x: engine.all_reduce(x, codec="int8", algorithm="direct"),
    }
    for size in parse_sizes(args.sizes):
        x = torch.empty(size // 4)
        for name, call in ways.items():
            call(x.fill_(1.0))
            if not torch.allclose(x, torch.tensor(float(args.ranks)), rtol=0.01):
                raise SystemExit(f"{name} is wrong at {size} bytes: {x[:4]}")
        x.zero_()
        calls = max(3, min(300, (40 << 20) // max(size, 1)))
        times: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(args.rounds + 1):
            names = list(ways)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                call = ways[name]
                dist.barrier()
                since = time.perf_counter()
                for _ in range(calls):
                    call(x)
                if turn:  # the first round warms up
                    times[name].append((time.perf_counter() - since) / calls * 1e6)
        if args.rank == 0:
            for name, all_rounds in times.items():
                low, middle, high = statistics.quantiles(all_rounds, n=4)
                print(f"{size:>10} {name:15} {middle:10.1f} +- {(high - low) / 2:.1f} us", flush=True)
    carrier.close()
    dist.destroy_process_group()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sizes", default="4,1k,1m,25m")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank is not None:
        worker(args)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        words = [sys.executable, __file__, *sys.argv[1:], "--store", folder, "--rank"]
        return run_ranks([Command([*words, str(rank)], env) for rank in range(args.ranks)])


if __name__ == "__main__":
    sys.exit(main())
