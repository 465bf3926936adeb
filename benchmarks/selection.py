"""How good predictions and choices are: all that "auto" may take, timed beside what was predicted.

    python benchmarks/selection.py run --net shm --ranks 2                 # shared memory
    python benchmarks/selection.py run --net off --ranks 4                 # hosts of the lab, no limit; root
    python benchmarks/selection.py run --net 1gbit --ranks 4 --per-host 2  # two hosts with two ranks each
    python benchmarks/selection.py report                                  # of all that was measured; draws

`run` starts the ranks, lets them probe what they run on, as `gradwire probe` does, and then times every
candidate at every size with every codec, interleaved round by round, in an order that rotates. It appends one
row a candidate to results/selection.jsonl:

time_us, spread: median over the rounds (gradwire.trials.Clock), and half their interquartile range over it.
predicted_us, error: what the communicator said before, and that over the time, minus 1.
chosen: "auto" takes it; it then runs the very same plan, so this time is auto's.
wire_bytes, socket_bytes: sent by rank 0 in one call, and what of that crossed sockets, by comm.stats().

Two more rows a size have the algorithm "auto": without a codec, and with codec="auto", which took `took`.
alike: algorithms that are the very same messages for this group are timed once.

A candidate that is said to take more than `--most` seconds a call is not timed. `report` also prints below
which size the double tree beats the ring, and what the predictions said of that.
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

import numpy as np
from lab import Lab, LabError, why_not
from studies.selection_report import report

RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]
UNITS = {"k": 1 << 10, "m": 1 << 20}


def parse_size(text: str) -> int:
    return int(text[:-1]) * UNITS[text[-1]] if text[-1] in UNITS else int(text)


# -- one rank --------------------------------------------------------------------------------------------
def worker(args: argparse.Namespace) -> int:
    import gradwire
    from gradwire.bench import machine
    from gradwire.trials import Clock, alike, own_cores

    transport = "auto" if args.net == "shm" or args.per_host > 1 else "tcp"
    with gradwire.init(args.rank, args.ranks, args.store, transport=transport, timeout=100.0) as comm:
        start = time.monotonic()
        if not os.environ.get("GRADWIRE_TOPOLOGY"):
            found = comm.probe()
            comm.use(found)
            if args.topology and comm.rank == 0:
                found.save(args.topology)
        probe_s = time.monotonic() - start
        sizes = [parse_size(s) for s in args.sizes.split(",")]
        clock = Clock(comm, max(sizes))
        cells: list[tuple[Row, Any]] = []
        for nbytes in sizes:
            for spec in args.codec.split(","):
                codec = None if spec == "none" else gradwire.codec(spec)
                chosen, prices = comm.choose(nbytes, codec), comm.candidates(nbytes, codec)
                for names in alike(comm, codec):
                    seconds, name = prices[names[0]], chosen if chosen in names else names[0]
                    if seconds > args.most and name != chosen:
                        continue
                    row: Row = {"net": args.net, "ranks": args.ranks, "per_host": args.per_host}
                    row |= {"size": nbytes, "codec": spec, "algorithm": name, "chosen": name == chosen}
                    row["alike"] = names
                    row |= {"predicted_us": 1e6 * seconds, "seconds": []}
                    cells.append((row, codec))
            # codec="auto" beside none, as a user calls them
            seconds = min(comm.candidates(nbytes, None, valid=True).values())
            for spec in ("none", "auto") if seconds < args.most else ():
                row = {"net": args.net, "ranks": args.ranks, "per_host": args.per_host, "size": nbytes}
                row |= {"codec": spec, "algorithm": "auto", "predicted_us": 1e6 * seconds, "seconds": []}
                took = comm.auto_codec(np.empty(nbytes // 4, np.float32)) if spec == "auto" else None
                cells.append((row | {"took": repr(took)}, None if spec == "none" else spec))
        with own_cores(comm):
            for turn in range(args.rounds):
                for nbytes in sizes:
                    now = [cell for cell in cells if cell[0]["size"] == nbytes]
                    for k in range(len(now)):
                        row, codec = now[(turn + k) % len(now)]
                        expected = 1e-6 * row["predicted_us"]
                        if turn >= (args.rounds if expected < 5e-3 else 5 if expected < 0.1 else 2):
                            continue
                        if turn == 0:
                            row |= bytes_of(comm, nbytes, codec, row["algorithm"])
                        row["seconds"].append(clock.seconds(nbytes, codec, row["algorithm"], expected))
        if comm.rank:
            return 0
        about = machine.describe([]) | {"command": args.command, "probe_s": probe_s}
        with open(args.json, "a", encoding="utf-8") as file:
            for row, _ in cells:
                taken = statistics.median(row["seconds"])
                quarters = statistics.quantiles(row["seconds"], n=4) if len(row["seconds"]) > 1 else [0, 0, 0]
                row |= {"time_us": 1e6 * taken, "spread": (quarters[2] - quarters[0]) / 2 / taken}
                row["error"] = row["predicted_us"] / row["time_us"] - 1
                file.write(json.dumps({**row, "run": about}) + "\n")
    return 0


def bytes_of(comm: Any, nbytes: int, codec: Any, algorithm: str) -> dict[str, int]:
    """In one call, after one that makes the plan."""
    array = np.zeros(nbytes // 4, np.float32)
    before = comm.stats()
    comm.all_reduce(array, "sum", codec, algorithm)
    after = comm.stats()
    return {
        "wire_bytes": after["bytes_sent"] - before["bytes_sent"],
        "socket_bytes": after["socket_bytes_sent"] - before["socket_bytes_sent"],
    }


# -- all of them -----------------------------------------------------------------------------------------
def run(args: argparse.Namespace) -> int:
    hosts = args.ranks // args.per_host
    lab = None
    if args.net != "shm":
        problem = why_not()
        if problem:
            print(f"no lab here: {problem}", file=sys.stderr)
            return 1
        lab = Lab(hosts, None if args.net == "off" else args.net, name="gwsel")
        lab.up()
    ranks: list[subprocess.Popen[Any]] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            words = [sys.executable, __file__, "worker", *sys.argv[2:], "--command", " ".join(sys.argv)]
            words += ["--store", (Path(folder) / "store").as_uri(), "--json", str(args.json)]
            env = os.environ | {"OMP_NUM_THREADS": "1"}
            env |= {"GRADWIRE_IFNAME": "eth0"} if lab else {}
            if args.topology and args.topology.exists():
                env["GRADWIRE_TOPOLOGY"] = str(args.topology)
            for rank in range(args.ranks):
                mine = [*words, "--rank", str(rank)]
                command = lab.command(rank // args.per_host, mine) if lab else mine
                ranks.append(subprocess.Popen(command, env=env))
            deadline = time.monotonic() + args.timeout
            codes = [r.wait(max(0.1, deadline - time.monotonic())) for r in ranks]
    finally:
        for r in ranks:
            r.kill()
            r.wait(10)
        if lab:
            lab.down()
    return max(map(abs, codes))


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(dest="do", required=True)
    for name in ("run", "worker", "report"):
        p = commands.add_parser(name)
        p.add_argument("--json", type=Path, default=RESULTS / "selection.jsonl")
        if name == "report":
            continue
        p.add_argument("--net", default="shm", help="shm, off (a lab without limit), or a rate for tc")
        p.add_argument("--ranks", type=int, default=2)
        p.add_argument("--per-host", type=int, default=1)
        p.add_argument("--sizes", default="1k,12k,64k,1m,6m,25m")
        p.add_argument("--codec", default="none,bf16,int8,int4")
        p.add_argument("--rounds", type=int, default=9)
        p.add_argument("--most", type=float, default=1.0, help="seconds of a call")
        p.add_argument("--timeout", type=float, default=600)
        p.add_argument("--topology", type=Path, help="go by this file; probe and write it if there is none")
        p.add_argument("--rank", type=int, help=argparse.SUPPRESS)
        p.add_argument("--store", help=argparse.SUPPRESS)
        p.add_argument("--command", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.do == "report":
        report(args.json, RESULTS / "selection.png")
        return 0
    try:
        return worker(args) if args.do == "worker" else run(args)
    except LabError as e:
        print(e, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
