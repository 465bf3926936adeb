"""Rows of results as a table, as CSV and as JSON lines. A row is a dict; a missing value is None."""

from __future__ import annotations

import csv
import io
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Protocol

Row = Mapping[str, Any]


def _plain(value: Any) -> str:
    return str(value)


@dataclass(frozen=True)
class Column:
    key: str  # in CSV and JSON
    heading: str  # in the table, with the unit
    show: Callable[[Any], str] = _plain
    left: bool = False


def significant(digits: int) -> Callable[[Any], str]:
    """12345.678 -> "12346", 0.012345 -> "0.0123": no exponents within what benchmarks show."""

    def show(value: Any) -> str:
        if value == 0:
            return "0"
        whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
        return f"{value:.{max(0, digits - whole)}f}" if abs(value) >= 1e-4 else f"{value:.1e}"

    return show


def percent(value: Any) -> str:
    return f"{100 * value:.0f}%"


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float]) -> float | None:
    """Half the interquartile range over the median: the noise of a list of rounds. None for fewer than 3."""
    if len(values) < 3:
        return None
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2 / statistics.median(values)


def print_table(columns: Sequence[Column], rows: Sequence[Row], title: str, notes: Sequence[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for c in columns:
        table.add_column(c.heading, justify="left" if c.left else "right", no_wrap=True)
    for row in rows:
        style = "bold red" if row.get("wrong") else None
        table.add_row(*("-" if row[c.key] is None else c.show(row[c.key]) for c in columns), style=style)
    # A pipe or a narrow terminal must not cost a column: long lines wrap at worst, no value is cut.
    needed = Console(width=10_000).measure(table).maximum
    console = Console(highlight=False, width=max(needed, Console().width))
    console.print(Text(title, style="bold"))
    console.print(table)
    for note in notes:
        console.print(Text(note), soft_wrap=True)


def _write(path: str, text: str, mode: str) -> None:
    if path == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        with Path(path).open(mode, encoding="utf-8", newline="") as f:
            f.write(text)


def write_csv(path: str, columns: Sequence[Column], rows: Sequence[Row]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(c.key for c in columns)
    for row in rows:
        writer.writerow("" if row[c.key] is None else _number(row[c.key]) for c in columns)
    _write(path, text.getvalue(), "w")


def _number(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def write_json(path: str, rows: Sequence[Row], run: Mapping[str, Any]) -> None:
    """One line a row; each carries the whole `run`, so that lines of many runs can be mixed in one file."""
    _write(path, "".join(json.dumps({**row, "run": run}) + "\n" for row in rows), "a")


class Progress(Protocol):
    def step(self, what: str) -> None: ...


class _Silent:
    def step(self, what: str) -> None:
        pass


@contextmanager
def progress(total: int | None, wanted: bool) -> Iterator[Progress]:
    """A bar on stderr, on a terminal only, drawn by step() alone: a refresh thread disturbs timing.

    total: steps, None if that depends on the time they take."""
    if not wanted or not sys.stderr.isatty():
        yield _Silent()
        return
    try:
        from rich import progress as rp
        from rich.console import Console
    except ImportError:
        yield _Silent()
        return
    bar = rp.Progress(
        rp.TextColumn("{task.description}"),
        rp.BarColumn(),
        rp.MofNCompleteColumn(),
        rp.TimeRemainingColumn(),
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
    )
    task = bar.add_task("", total=total)

    class Bar:
        def step(self, what: str) -> None:
            bar.update(task, advance=1, description=what, refresh=True)

    with bar:
        yield Bar()
