"""`gradwire bench all_reduce`: nccl-tests' question, for every codec and algorithm, with peers beside."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from gradwire.bench import entries, launch, machine, measure, report
from gradwire.bench.arguments import (
    UsageError,
    add_outputs,
    check_outputs,
    make_codec,
    not_negative,
    parse_names,
    parse_size,
    parse_sizes,
    positive,
    size_range,
)
from gradwire.bench.check import ALIASES, DTYPES, Question
from gradwire.bench.report import Column, percent, significant

if TYPE_CHECKING:
    from gradwire import Communicator

EXAMPLES = """\
examples:
  gradwire bench all_reduce                                         two ranks on this machine
  gradwire bench all_reduce --ranks 4 -b 1k -e 64m -f 4 --vs gloo   four ranks, Gloo beside
  gradwire bench all_reduce --codec "none,int8,int4,topk(ratio=0.01)" --sizes 1m,25m --plot out.png
  gradwire bench all_reduce --algorithm direct,ring --sizes 4m --csv - > rows.csv
  torchrun --nnodes 2 --nproc-per-node 1 --rdzv-endpoint HOST:29500 --no-python gradwire bench all_reduce

Exit code: 0 fine, 1 a result is wrong (it is then not timed) or a rank failed, 2 bad arguments.
"""

COLUMNS = [
    Column("size", "size (B)"),
    Column("count", "count"),
    Column("dtype", "type", left=True),
    Column("op", "op", left=True),
    Column("library", "library", left=True),
    Column("algorithm", "algorithm", left=True),
    Column("codec", "codec", left=True),
    Column("time_us", "time (us)", significant(4)),
    Column("spread", "+-", percent),
    Column("predicted_us", "predicted", significant(4)),
    Column("error", "error", lambda v: "" if v is None else f"{100 * v:+.0f}%"),
    Column("algbw", "algbw (GB/s)", significant(3)),
    Column("busbw", "busbw (GB/s)", significant(3)),
    Column("wrong", "wrong"),
    Column("wire_bytes", "wire (B)"),
    Column("ratio", "ratio", significant(3)),
    Column("rel_err", "rel err", lambda v: f"{v:.1e}" if v else "0"),
]


def add_parser(commands: Any) -> None:
    p: argparse.ArgumentParser = commands.add_parser(
        "all_reduce",
        help="time and bandwidth of all_reduce",
        description="Time, bandwidth, wire bytes and error of all_reduce, checked before it is timed.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = p.add_argument_group("what")
    what.add_argument("-b", "--min-bytes", type=parse_size, metavar="SIZE", help="smallest size (default 1k)")
    what.add_argument("-e", "--max-bytes", type=parse_size, metavar="SIZE", help="largest size (default 64m)")
    what.add_argument("-f", "--factor", type=positive, metavar="N", help="from size to size (default 4)")
    what.add_argument("--sizes", type=parse_sizes, metavar="LIST", help="these sizes instead: 1k,64k,25m")
    types = [*DTYPES, *ALIASES]
    what.add_argument(
        "-d", "--dtype", choices=types, default="float32", metavar="TYPE", help=", ".join(types)
    )
    what.add_argument(
        "-o", "--op", choices=["sum", "avg", "min", "max", "prod"], default="sum", help="default: sum"
    )
    what.add_argument(
        "--codec",
        type=parse_names,
        default=["none"],
        metavar="LIST",
        help="none,int8,int4(block=64),... (default: none)",
    )
    what.add_argument(
        "--algorithm",
        type=parse_names,
        default=["auto"],
        metavar="LIST",
        help="auto,direct,ring,... (default: auto)",
    )
    what.add_argument(
        "--transport", choices=["auto", "shm", "tcp"], help="default: shm inside a host, TCP across"
    )
    what.add_argument(
        "--vs", type=parse_names, default=[], metavar="LIST", help="peers measured beside: gloo"
    )
    how = p.add_argument_group("how often")
    how.add_argument(
        "-n", "--iters", type=positive, default=20, metavar="N", help="repetitions a round (default 20)"
    )
    how.add_argument(
        "-w", "--warmup", type=not_negative, default=2, metavar="N", help="untimed before them (default 2)"
    )
    how.add_argument(
        "--rounds", type=positive, default=5, metavar="N", help="rounds over all entries (default 5)"
    )
    how.add_argument(
        "--batch",
        type=positive,
        default=0,
        metavar="N",
        help="calls back to back in a repetition (default 1, below 1 MiB up to 20)",
    )
    how.add_argument(
        "--rest",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="before a repetition: routers' queues drain, token buckets fill again (default 0)",
    )
    how.add_argument("--no-bind", action="store_true", help="do not give every rank cores of its own")
    who = p.add_argument_group(
        "ranks", "Without these: those of torchrun, Open MPI or Slurm; without a launcher, 2."
    )
    who.add_argument("--ranks", type=positive, metavar="N", help="start N ranks on this machine")
    who.add_argument("--rank", type=not_negative, metavar="R", help="be rank R, with --size and --store")
    who.add_argument("--size", type=positive, metavar="N", help="how many ranks there are")
    who.add_argument("--store", metavar="URL", help="where ranks meet: file:///path or tcp://host:port")
    add_outputs(p)
    p.set_defaults(run=run)


def sizes_of(args: argparse.Namespace) -> list[int]:
    if args.sizes:
        if args.min_bytes or args.max_bytes or args.factor:
            raise UsageError("--sizes excludes -b, -e and -f: give the list or the range")
        return list(args.sizes)
    smallest, largest = args.min_bytes, args.max_bytes
    # one end given alone moves the other end out of its way
    smallest = smallest or min(1 << 10, largest or 1 << 10)
    return size_range(smallest, largest or max(64 << 20, smallest), args.factor or 4)


def _questions(args: argparse.Namespace, rank: int, size: int) -> list[Question]:
    dtype = ALIASES.get(args.dtype, args.dtype)
    width = DTYPES[dtype]
    sizes = sizes_of(args)
    for nbytes in sizes:
        if nbytes < width:
            raise UsageError(f"a size of {nbytes} B holds no {dtype} ({width} B an element)")
    return [Question(rank, size, nbytes // width, dtype, args.op) for nbytes in sizes]


def check_arguments(args: argparse.Namespace) -> None:
    """All that can be known before a rank is started."""
    from gradwire import _native
    from gradwire.bench import check

    check_outputs(args)
    question = _questions(args, 0, 1)[0]
    check.empty(1, question.dtype)
    known = ["auto", *(a["name"] for a in _native.algorithms())]
    for name in args.algorithm:
        if name not in known:
            raise UsageError(f"--algorithm {name}: not one of {', '.join(known)}")
    for spec in args.codec:
        codec = make_codec(spec)
        if codec is not None and not (
            question.dtype.endswith(("16", "32", "64")) and "float" in question.dtype
        ):
            raise UsageError(f"--codec {spec} works on floats, got --dtype {question.dtype}")
        if codec is not None and args.op not in ("sum", "avg"):
            raise UsageError(f"--codec {spec} works on sums and averages, got --op {args.op}")
    if args.op == "avg" and "float" not in question.dtype:
        raise UsageError(f"--op avg needs a float type, got --dtype {question.dtype}: use --op sum")
    for name in args.vs:
        entries.check_peer(name, args.op)
    if args.rank is not None:
        if args.size is None or args.store is None:
            raise UsageError("--rank needs --size and --store as well")
        if args.rank >= args.size:
            raise UsageError(f"--rank {args.rank} is not less than --size {args.size}")
        if args.ranks not in (None, args.size):
            raise UsageError("--ranks starts all ranks, --rank is one of them: give one of the two")
    elif args.size is not None or args.store is not None:
        raise UsageError("--size and --store go with --rank; to start all ranks here, use --ranks N")
    elif args.ranks is not None and launch.under_launcher():
        raise UsageError("a launcher has already started the ranks: leave --ranks out")


def run(args: argparse.Namespace) -> int:
    check_arguments(args)
    if args.rank is None and not launch.under_launcher():
        return launch.start_ranks(args.words, args.ranks or 2)
    import gradwire

    where = {} if args.rank is None else {"rank": args.rank, "size": args.size, "store": args.store}
    if args.transport:
        where["transport"] = args.transport
    try:
        with gradwire.init(**where) as comm:
            return run_rank(args, comm)
    except gradwire.GradwireError as e:
        print(f"gradwire: {type(e).__name__}: {e}", file=sys.stderr)
        return 1


def run_rank(args: argparse.Namespace, comm: Communicator) -> int:
    """Measures as one rank of `comm`. Rank 0 reports. Returns the exit code."""
    # containers of one machine are hosts that share its cores
    machines = [number for _, number in comm._native.places()]
    mine = machines[comm.rank]
    neighbours, cores = machines.count(mine), machine.cores()
    share = machine.share_of_cores(
        *((0, 1) if args.no_bind else (machines[: comm.rank].count(mine), neighbours))
    )
    own = [
        entries.Gradwire(comm, make_codec(spec), spec, algorithm)
        for spec in args.codec
        for algorithm in args.algorithm
    ]
    peers = [entries.PEERS[name](comm) for name in args.vs]
    plan = measure.Plan(
        args.iters, args.warmup, args.rounds, neighbours > cores, share, args.batch, args.rest
    )
    bench = measure.Bench(comm, [*own, *peers], _questions(args, comm.rank, comm.size), plan)
    stolen, ticks = machine.cpu_ticks()
    with report.progress(bench.steps(), wanted=comm.rank == 0 and not args.no_progress) as bar:
        rows = bench.run(bar)
    stolen_after, ticks_after = machine.cpu_ticks()
    for peer in peers:
        peer.close()
    if comm.rank == 0:
        about = machine.describe(_public(args.words)) | {"bound": len(share) < cores}
        about["stolen"] = (stolen_after - stolen) / max(1, ticks_after - ticks)
        _report(args, comm, rows, about)
    return int(any(row["wrong"] for row in rows))


def _public(words: list[str]) -> list[str]:
    """The command as it was typed: without what start_ranks() added."""
    added = ("--rank=", "--size=", "--store=")
    return words[:-3] if len(words) > 3 and all(w.startswith(a) for w, a in zip(words[-3:], added)) else words


def _report(
    args: argparse.Namespace, comm: Communicator, rows: list[dict[str, Any]], run: dict[str, Any]
) -> None:
    transports = sorted({kind for kind, _ in comm.peers() if kind != "self"}) or ["none"]
    hosts = len({host for _, host in comm.peers()})
    run |= {"ranks": comm.size, "hosts": hosts, "transport": "+".join(transports)}
    run |= {"iters": args.iters, "warmup": args.warmup, "rounds": args.rounds}
    versus = [Column(f"vs_{n}", f"x {n}", lambda v: f"{v:.2f}x") for n in args.vs]
    columns = [*COLUMNS, *versus]
    if args.csv:
        report.write_csv(args.csv, columns, rows)
    if args.json:
        report.write_json(args.json, rows, run)
    if "-" not in (args.csv, args.json):
        title = (
            f"all_reduce, {comm.size} ranks on {hosts} host{'s' * (hosts > 1)}, {run['transport']}, "
            f"{args.rounds} rounds x {args.iters} repetitions"
        )
        report.print_table(columns, rows, title, _notes(run, comm.size // hosts, bool(versus)))
    if args.plot:
        from gradwire.bench import plot

        plot.all_reduce(args.plot, rows, f"all_reduce, {comm.size} ranks, {run['transport']}, {run['cpu']}")


def _notes(run: dict[str, Any], ranks_here: int, versus: bool) -> list[str]:
    versions = ", ".join(f"{name} {v}" for name, v in run["versions"].items() if v)
    notes = [f"{run['host']}: {run['cpu']}, {run['cores']} cores, {run['isa']} kernels; {versions}"]
    if run["bound"]:
        notes.append("ranks are bound to cores of their own while gradwire is measured (--no-bind: not)")
    notes.append("time: median over rounds, slowest rank; +-: half the interquartile range of the rounds")
    if versus:
        notes.append("x peer: the peer's time over this row's, median of the ratios within one round")
    if ranks_here > run["cores"]:
        notes.append(f"{ranks_here} ranks share {run['cores']} cores: times include waiting for a core")
    if run["stolen"] > 0.01:
        notes.append(f"the host took {100 * run['stolen']:.0f}% of the cores' time away: expect noise")
    return notes
