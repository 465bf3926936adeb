"""`gradwire bench codec`: encode, decode and decode_add against memcpy, on preallocated arrays."""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gradwire.bench import machine, report
from gradwire.bench.arguments import (
    UsageError,
    add_outputs,
    check_outputs,
    human_size,
    make_codec,
    parse_names,
    parse_size,
    positive,
)
from gradwire.bench.report import Column, median, percent, significant, spread

if TYPE_CHECKING:
    from gradwire import Codec

EXAMPLES = """\
examples:
  gradwire bench codec                                       every codec at 25 MiB
  gradwire bench codec --codec "int8,int4(block=64)" --size 1m
  gradwire bench codec --codec "topk(ratio=0.01),topk(ratio=0.001,values=bf16)" --json codecs.jsonl
"""

STAGES = ("encode", "decode", "decode_add")

COLUMNS = [
    Column("codec", "codec", left=True),
    Column("size", "size (B)"),
    Column("bits", "bits/elt", significant(4)),
    *(
        column
        for stage in STAGES
        for column in (
            Column(f"{stage}_gbs", f"{stage} (GB/s)", significant(3)),
            Column(f"{stage}_spread", "+-", percent),
            Column(f"{stage}_memcpy", "of memcpy", lambda v: f"{v:.2f}"),
        )
    ),
    Column("rel_err", "rel err", lambda v: f"{v:.3g}"),
]

Call = Callable[[], object]


def add_parser(commands: Any) -> None:
    p: argparse.ArgumentParser = commands.add_parser(
        "codec",
        help="speed, size and error of the codecs",
        description="Encode, decode and decode_add of fp32 N(0, 1) values: GB/s, share of memcpy.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--codec", type=parse_names, metavar="LIST", help="int8,int4(block=64),... (default: all)")
    p.add_argument(
        "--size", type=parse_size, default=25 << 20, metavar="SIZE", help="fp32 input (default 25m)"
    )
    p.add_argument(
        "-n", "--iters", type=positive, default=5, metavar="N", help="repetitions a round (default 5)"
    )
    p.add_argument(
        "--rounds", type=positive, default=7, metavar="N", help="rounds over all codecs (default 7)"
    )
    add_outputs(p)
    p.set_defaults(run=run)


class Case:
    """One codec bound to arrays of its own, as a gradient bucket is in training."""

    def __init__(self, spec: str, codec: Codec, x: np.ndarray[Any, np.dtype[np.float32]]) -> None:
        from gradwire import _native

        self.spec = spec
        room = np.zeros(codec.encoded_bytes(x.size), np.uint8)
        self.payload_bytes = _native.quantize(x, codec, room)
        payload = room[: self.payload_bytes]
        frame = _native.encode(x, codec)
        out, acc = np.zeros_like(x), np.zeros_like(x)
        self.calls: dict[str, Call] = {
            "encode": lambda: _native.quantize(x, codec, room),
            "decode": lambda: _native.dequantize(payload, codec, out),
            "decode_add": lambda: _native.decode_add(frame, acc),
        }
        self.calls["encode"]()
        self.calls["decode"]()
        norm = float(np.linalg.norm(x)) or 1.0
        self.rel_err = float(np.linalg.norm(out - x)) / norm


def run(args: argparse.Namespace) -> int:
    import gradwire

    check_outputs(args)
    if args.size < 4:
        raise UsageError(f"--size {args.size} holds no float32 (4 B)")
    specs = args.codec or list(gradwire.codecs())
    codecs = [make_codec(spec) for spec in specs]
    count = args.size // 4
    x = np.random.default_rng(1).standard_normal(count, np.float32)
    cases = [Case(spec, codec, x) for spec, codec in zip(specs, codecs) if codec is not None]
    if len(cases) < len(specs):
        raise UsageError("--codec none encodes nothing: name a codec, such as identity or int8")
    with report.progress(args.rounds * len(cases) * len(STAGES), wanted=not args.no_progress) as bar:
        copies, seconds = _measure(cases, x, args, bar)
    rows = [_row(case, count, copies, seconds) for case in cases]
    _report(args, rows, median(copies))
    return 0


def _measure(
    cases: Sequence[Case],
    x: np.ndarray[Any, np.dtype[np.float32]],
    args: argparse.Namespace,
    bar: report.Progress,
) -> tuple[list[float], dict[tuple[str, str], list[float]]]:
    """Seconds per round of the copy, and of every (codec, stage). Every round times all of them once."""
    to = np.zeros_like(x)
    copies: list[float] = []
    seconds: dict[tuple[str, str], list[float]] = {}
    gc.collect()
    gc.disable()
    try:
        for _ in range(args.rounds):
            copies.append(_time(lambda: np.copyto(to, x), args.iters))
            for case in cases:
                for stage in STAGES:
                    seconds.setdefault((case.spec, stage), []).append(_time(case.calls[stage], args.iters))
                    bar.step(f"{case.spec} {stage}")
    finally:
        gc.enable()
    return copies, seconds


def _time(call: Call, iters: int) -> float:
    """Median of `iters` repetitions, after an untimed one that brings code and arrays into the caches."""
    call()
    taken = []
    for _ in range(iters):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return median(taken)


def _row(
    case: Case, count: int, copies: Sequence[float], seconds: dict[tuple[str, str], list[float]]
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "codec": case.spec,
        "size": count * 4,
        "bits": 8 * case.payload_bytes / count,
        "rel_err": case.rel_err,
    }
    for stage in STAGES:
        taken = seconds[case.spec, stage]
        row[f"{stage}_gbs"] = count * 4 / median(taken) / 1e9
        row[f"{stage}_spread"] = spread(taken)
        row[f"{stage}_memcpy"] = median([copy / t for copy, t in zip(copies, taken)])
    return row


def _report(args: argparse.Namespace, rows: list[dict[str, Any]], copy_s: float) -> None:
    run = machine.describe(args.words)
    copy_gbs = rows[0]["size"] / copy_s / 1e9
    run |= {"iters": args.iters, "rounds": args.rounds, "memcpy_gbs": copy_gbs}
    if args.csv:
        report.write_csv(args.csv, COLUMNS, rows)
    if args.json:
        report.write_json(args.json, rows, run)
    if "-" not in (args.csv, args.json):
        title = f"codecs, {human_size(args.size)} of float32 N(0, 1), one core, {run['isa']} kernels"
        notes = [
            f"memcpy in the same rounds: {copy_gbs:.1f} GB/s of input; {run['cpu']}",
            "GB/s are fp32 input bytes per second; of memcpy: median of the ratios within one round",
        ]
        report.print_table(COLUMNS, rows, title, notes)
    if args.plot:
        from gradwire.bench import plot

        plot.codec(args.plot, rows, f"codecs, {human_size(args.size)}, {run['isa']}, {run['cpu']}")
