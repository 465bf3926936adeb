"""Runs the parts in order within the budget, and reports: rows as JSON lines, a table, the bars."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gpu_suite import all_reduce, arrays, bars, bounds, build, checks, clock, codec_speed, ddp, verdicts
from gpu_suite.sizes import TINY, Sizes

from gradwire.bench import machine, report
from gradwire.bench.arguments import human_size, parse_names, parse_sizes
from gradwire.bench.report import Column, percent, significant

Row = dict[str, Any]

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
        self.kept: Path | None = None  # where the bounds of one-shot are
        self.sizes = TINY if self.simulated else Sizes()
        found = build.asked("name,driver_version,memory.total")
        self.gpu = "simulated" if self.simulated else found or "unknown"
        self.args = args
        self.ends = began + 60 * args.minutes
        self.kinds = arrays.kinds(self.simulated)
        # the timings need torch's events, and say so if it is not there
        self.kind = next((kind for kind in self.kinds if kind.name == "torch"), self.kinds[0])
        self.clock: clock.Clock = clock.Cuda()
        if self.simulated:
            there = self.kind.put(np.zeros(1, np.uint8), "uint8")
            self.clock = clock.Simulated(lambda: self.kind.get(there))

    def left(self, share: float) -> float:
        """Seconds of a part that gets this share of those that are left."""
        return share * max(1.0, self.ends - time.monotonic())

    def checks(self, bar: report.Progress) -> Iterator[Row]:
        for kind in self.kinds:
            yield from checks.codec_rows(kind, self.sizes.checked)
        for codec in checks.codecs(self.kind)[1]:
            yield {**checks.row(f"codec {codec}", codec, None, 0, None), "skipped": "it has no kernels"}
        yield checks.replay_row(self.kind, self.simulated, self.sizes.replays)
        yield from all_reduce.check_rows(self.kind, self.sizes.reduced, self.sizes.replays)

    def others(self, bar: report.Progress) -> Iterator[Row]:
        if not self.simulated:
            yield verdicts.tests_row(self.left(0.15))
        yield from verdicts.sanitizer_rows(self.left(0.1))

    def codec(self, bar: report.Progress) -> Iterator[Row]:
        bench = codec_speed.Bench(self.kind, self.clock, parse_names(self.args.codec))
        sizes = parse_sizes(self.args.sizes or self.sizes.codec)
        yield from bench.rows(sizes, time.monotonic() + self.left(0.5), bar)

    def all_reduce(self, bar: report.Progress) -> Iterator[Row]:
        bench = all_reduce.Bench(self.kind, self.clock, self.sizes.copied)
        sizes = parse_sizes(self.args.sizes or self.sizes.all_reduce)
        timed = []
        for row in bench.rows(sizes, time.monotonic() + self.left(0.6), bar):
            timed.append(row)
            yield row
        found = list(bounds.rows(timed))
        if not (self.simulated or self.args.sizes):  # times that mean something, of the whole range
            self.kept = bounds.keep(found)
        yield from found

    def ddp(self, bar: report.Progress) -> Iterator[Row]:
        if arrays.installed("torch"):
            device, folder = "cpu" if self.simulated else "cuda", Path(self.args.json).parent
            yield from ddp.rows(device, folder, max(60.0, self.left(1)))
        else:
            yield {**checks.row("DDP", None, None, 0, None), "skipped": "torch is not installed"}


PARTS: dict[str, Callable[[Suite, report.Progress], Iterator[Row]]] = {
    "checks": Suite.checks,
    "others": Suite.others,
    "codec": Suite.codec,
    "all_reduce": Suite.all_reduce,
    "ddp": Suite.ddp,
}


def run(args: argparse.Namespace, began: float) -> int:
    """The exit code: 0, or 1 if a result was wrong or a part failed. `began`: on time.monotonic's clock."""
    suite = Suite(args, began)
    path = Path(args.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    about = describe(suite)
    rows: list[Row] = []
    for name in parse_names(args.parts) if args.parts else PARTS:
        print(f"{time.monotonic() - began:5.0f} s  {name}", file=sys.stderr, flush=True)
        found = []
        with report.progress(None, wanted=True) as bar:
            try:
                for row in _in_time(suite, name, bar):
                    bar.step(f"{row['entry']} {row.get('codec') or ''}")
                    found.append(row)
            except Exception as error:
                # the parts before it are worth keeping, and the others may still run
                traceback.print_exc()
                said = f"{type(error).__name__}: {error}".splitlines()[0]
                found.append({**checks.row(f"part {name}", None, None, 0, 1), "skipped": said})
        report.write_json(str(path), found, about)
        rows += found
    _print(suite, rows, f"{suite.gpu}; {time.monotonic() - began:.0f} s in all; every row in {path}")
    return int(any(row["wrong"] for row in rows))


def _in_time(suite: Suite, name: str, bar: report.Progress) -> Iterator[Row]:
    """A part's rows until the time is up, then one that says so. A simulator is given the time it takes."""
    rows = PARTS[name](suite, bar)
    while suite.simulated or time.monotonic() < suite.ends:
        row = next(rows, None)
        if row is None:
            return
        yield row
    late = f"the {suite.args.minutes:g} minutes are over: give it more by --minutes, or name it by --parts"
    yield {**checks.row(f"part {name}", None, None, 0, None), "skipped": late}


def describe(suite: Suite) -> Row:
    """The `run` object of every JSON line."""
    about: Row = dict(machine.describe([]))
    about["command"] = shlex.join(["python", "benchmarks/gpu_suite", *sys.argv[1:]])
    about["versions"] = {
        **about["versions"],
        **{name: machine.version_of(name) for name in ("triton", "cupy")},
    }
    return {**about, "gpu": suite.gpu, "stated": "simulated" if suite.simulated else "measured"}


def _print(suite: Suite, rows: list[Row], where: str) -> None:
    notes = [
        "moved: what has to be read and written in device memory; of copy: over the copy's in the same round",
        where,
    ]
    for part, title in (("codec", "codec kernels"), ("all_reduce", "all_reduce of virtual ranks")):
        timed = [row for row in rows if row["part"] == part]
        if timed:
            report.print_table(COLUMNS, timed, title, notes)
    found = [row for row in rows if row["part"] == "bound"]
    if found:
        print("one-shot below, by these timings of ranks that share one GPU (csrc/comm/peer_choice.hpp)")
    for line in bounds.table(found):
        print(f"  {line}")
    if suite.kept:
        print(f"  plain: kept in {suite.kept}; communicators with gpu_peers=True go by it on this machine")
    print("bars")
    for line in bars.verdicts(rows):
        print(f"  {line}")
    if suite.simulated:
        print("Simulated on a CPU: the checks hold, the times mean nothing.")
