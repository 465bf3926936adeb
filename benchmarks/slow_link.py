"""What one slow link costs a ring, and what probing saves: both orders timed, interleaved. Root.

    python benchmarks/slow_link.py                                          # 4 hosts, link 0-1 at a tenth
    python benchmarks/slow_link.py --slow-link 1-2=200mbit --sizes 4m,25m
    python benchmarks/slow_link.py --slow-host 3=100mbit --algorithms direct,double_tree

Hosts of the lab at `--rate`, one rank each, probe their links (`comm.probe()`, as `gradwire probe` does) and
print what stands out. Then every algorithm is timed on two communicators: one that knows nothing of the
links, and one that goes by what was found. A row a size is appended to results/slow_link.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lab import Lab, LabError, add_limits, set_limits, why_not
from selection import parse_size

RESULTS = Path(__file__).parent / "results" / "slow_link.jsonl"


def worker(args: argparse.Namespace) -> int:
    import gradwire
    from gradwire.bench import machine
    from gradwire.trials import Clock

    with gradwire.init(args.rank, args.hosts, args.store, timeout=100.0) as comm:
        found = comm.probe(collectives=False)
        informed = comm.split(0)
        assert informed is not None
        informed.use(found)
        sizes = [parse_size(s) for s in args.sizes.split(",")]
        clocks = [Clock(c, max(sizes)) for c in (comm, informed)]
        if comm.rank == 0:
            print(found.report(), flush=True)
        for nbytes in sizes:
            for algorithm in args.algorithms.split(","):
                seconds: list[list[float]] = [[], []]
                for turn in range(args.rounds):
                    for k in (turn % 2, 1 - turn % 2):
                        seconds[k].append(clocks[k].seconds(nbytes, None, algorithm, 0.1))
                if comm.rank == 0:
                    before, after = (statistics.median(s) for s in seconds)
                    ratio = statistics.median(a / b for a, b in zip(*seconds))
                    times = f"{1e3 * before:.1f} ms in order of ranks, {1e3 * after:.1f} ms as probed"
                    print(f"{algorithm}, {nbytes} B: {times}, {ratio:.2f} times faster", flush=True)
                    row = {"algorithm": algorithm, "size": nbytes, "ratio": ratio, "seconds": seconds}
                    row |= {"slow_link": args.slow_link, "slow_host": args.slow_host, "rate": args.rate}
                    row |= {"found": found.report(), "order": found.order()}
                    row |= {"run": machine.describe([]) | {"command": args.command}}
                    with open(RESULTS, "a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
        comm.barrier()
        informed.close()
    return 0


def run(args: argparse.Namespace) -> int:
    problem = why_not()
    if problem:
        print(f"no lab here: {problem}", file=sys.stderr)
        return 1
    ranks: list[subprocess.Popen[str]] = []
    with Lab(args.hosts, args.rate, name="gwslow") as lab, tempfile.TemporaryDirectory() as folder:
        set_limits(lab, args)
        env = os.environ | {"OMP_NUM_THREADS": "1", "GRADWIRE_IFNAME": "eth0"}
        words = [sys.executable, __file__, *sys.argv[1:], "--store", (Path(folder) / "store").as_uri()]
        words += ["--command", " ".join(["python", *sys.argv])]
        try:
            for host in range(args.hosts):
                ranks.append(lab.start(host, [*words, "--rank", str(host)], env=env))
            deadline = time.monotonic() + args.timeout
            return max(abs(r.wait(max(0.1, deadline - time.monotonic()))) for r in ranks)
        finally:
            for r in ranks:
                r.kill()
                r.wait(10)


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    p: Any = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    p.add_argument("--hosts", type=int, default=4)
    p.add_argument("--rate", default="1gbit")
    add_limits(p)
    p.add_argument("--sizes", default="1m,4m,25m")
    p.add_argument("--algorithms", default="ring")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--timeout", type=float, default=300)
    p.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    p.add_argument("--store", help=argparse.SUPPRESS)
    p.add_argument("--command", help=argparse.SUPPRESS)
    args = p.parse_args()
    if not args.slow_link and not args.slow_host:
        args.slow_link = [(0, 1, "100mbit")]
    try:
        return run(args) if args.rank is None else worker(args)
    except LabError as e:
        print(e, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
