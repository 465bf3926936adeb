"""Runs the parts in order within the budget, and reports: rows as JSON lines, a table, the bars."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gpu_suite import arrays, bars, build, checks, clock, codec_speed, sanitizer
from gpu_suite.sizes import DEFAULT, TINY

from gradwire.bench import machine, report
from gradwire.bench.arguments import human_size, parse_names, parse_sizes
from gradwire.bench.report import Column, percent, significant

Row = dict[str, Any]

SANITIZER_S = 45  # a tool

COLUMNS = [
    Column("entry", "entry", left=True),
    Column("stage", "stage", left=True),
    Column("codec", "codec", left=True),
    Column("size", "size", human_size),
    Column("time_us", "time (us)", significant(4)),
    Column("spread", "+-", percent),
    Column("gbs", "moved (GB/s)", significant(4)),
    Column("of_copy", "of copy", percent),
    Column("wrong", "wrong"),
    Column("skipped", "note", left=True),
]


class Suite:
    """One run: where it runs, its options, and when it has to end."""

    def __init__(self, args: argparse.Namespace, began: float) -> None:
        self.simulated = build.SIMULATED
        self.gpu = (
            "simulated" if self.simulated else build.asked("name,driver_version,memory.total") or "unknown"
        )
        self.args = args
        self.ends = began + 60 * args.minutes
        self.kinds = arrays.kinds(self.simulated)
        torch = next((kind for kind in self.kinds if kind.name == "torch"), None)
        self.kind = torch or self.kinds[0]
        self.clock: clock.Clock = clock.Cuda()
        if self.simulated:
            there = self.kind.put(np.zeros(1, np.uint8), "uint8")
            self.clock = clock.Simulated(lambda: self.kind.get(there))
        self.sizes = parse_sizes(args.sizes or (TINY if self.simulated else DEFAULT))
        self.codecs = parse_names(args.codec)

    def until(self, share: float) -> float:
        """When a part must end that gets this share of the time that is left."""
        now = time.monotonic()
        return now + share * max(0.0, self.ends - now)

    def checks(self, bar: report.Progress) -> Iterator[Row]:
        largest = 2_000 if self.simulated else 1_000_000
        for kind in self.kinds:
            yield from checks.codec_rows(kind, largest)
        for codec in checks.codecs(self.kind)[1]:
            yield {**checks.row(f"codec {codec}", codec, None, 0, None), "skipped": "it has no kernels"}
        if self.simulated or self.kind.name == "torch":
            replays = 5 if self.simulated else 100
            yield checks.replay_row(self.kind, self.simulated, replays)

    def sanitizer(self, bar: report.Progress) -> Iterator[Row]:
        yield from sanitizer.rows(min(SANITIZER_S, self.until(0.15) - time.monotonic()))

    def codec(self, bar: report.Progress) -> Iterator[Row]:
        bench = codec_speed.Bench(self.kind, self.clock, self.codecs)
        yield from bench.rows(self.sizes, self.until(0.5), bar)


PARTS: dict[str, Callable[[Suite, report.Progress], Iterator[Row]]] = {
    "checks": Suite.checks,
    "sanitizer": Suite.sanitizer,
    "codec": Suite.codec,
}


def run(args: argparse.Namespace, began: float) -> int:
    """The exit code: 0, or 1 if a result was wrong. `began`: on time.monotonic's clock."""
    suite = Suite(args, began)
    rows: list[Row] = []
    for name in args.parts.split(",") if args.parts else PARTS:
        print(f"{time.monotonic() - began:5.0f} s  {name}", file=sys.stderr, flush=True)
        with report.progress(None, wanted=True) as bar:
            for row in PARTS[name](suite, bar):
                bar.step(f"{row['entry']} {row.get('codec') or ''}")
                rows.append(row)
    about = describe(suite, time.monotonic() - began)
    path = Path(args.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    report.write_json(str(path), rows, about)
    _print(suite, rows, about, path)
    return int(any(row["wrong"] for row in rows))


def describe(suite: Suite, seconds: float) -> Row:
    """The `run` object of every JSON line."""
    about: Row = dict(machine.describe([]))
    about["command"] = shlex.join(["python", "benchmarks/gpu_suite", *sys.argv[1:]])
    about["versions"] |= {name: machine.version_of(name) for name in ("triton", "cupy")}
    about |= {"gpu": suite.gpu, "stated": "simulated" if suite.simulated else "measured"}
    return {**about, "seconds": round(seconds, 1)}


def _print(suite: Suite, rows: list[Row], about: Row, path: Path) -> None:
    timed = [row for row in rows if row["part"] == "codec"]
    notes = [
        f"{suite.gpu}; {about['seconds']:.0f} s in all; every row in {path}",
        "moved: what has to be read and written in device memory; of copy: over the copy's in the same round",
    ]
    if timed:
        report.print_table(COLUMNS, timed, "codec kernels", notes)
    print("\nbars")
    for line in bars.verdicts(rows):
        print(f"  {line}")
    if suite.simulated:
        print("Simulated on a CPU: the checks hold, the times mean nothing.")
