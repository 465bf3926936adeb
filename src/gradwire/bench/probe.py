"""`gradwire probe`: the links between all ranks, what is slow, and the file that `topology=` takes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradwire.bench import launch
from gradwire.bench.arguments import UsageError, positive
from gradwire.bench.report import progress

if TYPE_CHECKING:
    from gradwire import Topology

EXAMPLES = """\
examples:
  gradwire probe --ranks 4                         four ranks on this machine
  torchrun --nnodes 4 --nproc-per-node 1 --rdzv-endpoint HOST:29500 --no-python gradwire probe
  gradwire probe --show topology.json              what a file says

Then: gradwire.init(topology="topology.json"), or GRADWIRE_TOPOLOGY=topology.json.
"""


def add_parser(commands: Any) -> None:
    p: argparse.ArgumentParser = commands.add_parser(
        "probe",
        help="measure every link between ranks; name the slow ones",
        description="Latency and bandwidth between every two ranks, without interference; then what "
        "whole all_reduces take, by every algorithm and with the usual codecs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("-o", "--output", metavar="FILE", help="default: the cache that topology='auto' reads")
    p.add_argument("--show", metavar="FILE", help="print a file instead of measuring")
    p.add_argument("--links-only", action="store_true", help="do not try whole collectives")
    p.add_argument("--ranks", type=positive, metavar="N", help="start N ranks here (default 2)")
    p.add_argument("--transport", choices=["auto", "shm", "tcp"], help="default: auto")
    p.add_argument("--no-progress", action="store_true")
    p.add_argument("--rank", type=int, help="one of --size ranks that meet at --store")
    p.add_argument("--size", type=positive)
    p.add_argument("--store")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import gradwire

    try:
        if args.show:
            print(table(gradwire.Topology.read(args.show)))
            return 0
        if args.rank is None and not launch.under_launcher():
            return launch.start_ranks(args.words, args.ranks or 2)
        if args.rank is not None and (args.size is None or args.store is None):
            raise UsageError("--rank needs --size and --store as well")
        where = {} if args.rank is None else {"rank": args.rank, "size": args.size, "store": args.store}
        if args.transport:
            where["transport"] = args.transport
        with gradwire.init(**where) as comm:
            with progress(100, wanted=comm.rank == 0 and not args.no_progress) as bar:
                done = 0

                def show(round_: int, rounds: int) -> None:
                    nonlocal done
                    for _ in range(100 * round_ // rounds - done):
                        bar.step(f"step {round_}/{rounds}")
                    done = 100 * round_ // rounds

                found = comm.probe(show, not args.links_only)
            if comm.rank == 0:
                path = Path(args.output) if args.output else comm.topology_cache()
                found.save(path)
                print(table(found))
                print(f"written to {path}")
        return 0
    except (gradwire.GradwireError, OSError) as e:
        print(f"gradwire: {type(e).__name__}: {e}", file=sys.stderr)
        return 1


def table(t: Topology) -> str:
    """Latency in us / bandwidth in MB/s, from row to column; then what stands out."""
    width = 16
    head = "us / MB/s".ljust(width) + "".join(f"to {b}".rjust(width) for b in range(t.size))
    lines = [head]
    for a in range(t.size):
        cells = [
            "-" if a == b else f"{t.latency_s[a][b] * 1e6:.1f} / {1e-6 / max(t.byte_s[a][b], 1e-15):.0f}"
            for b in range(t.size)
        ]
        lines.append(f"{a} {t.hosts[a]}"[: width - 1].ljust(width) + "".join(c.rjust(width) for c in cells))
    return "\n".join([*lines, t.report()])
