"""Rows of a study: JSON lines that say what they depend on, appended as soon as they are known."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from gradwire.bench import machine

Row = dict[str, Any]


def run_of(script: str) -> Row:
    """The `run` object of every row: time, host, cpu, versions, settings and the command, as it was typed."""
    run = dict(machine.describe([]))
    run["command"] = shlex.join(["python", f"benchmarks/{Path(script).name}", *sys.argv[1:]])
    run["versions"] = {**run["versions"], **{p: machine.version_of(p) for p in ("torchao", "bitsandbytes")}}
    run["stated"] = "measured"
    return run


def where(run: Row) -> str:
    """One line for the foot of a picture."""
    versions = run["versions"]
    return f"measured on {run['cpu']} ({run['cores']} cores), {run['isa']}, torch {versions['torch']}"


def read(path: Path) -> list[Row]:
    """All rows of a file; none if it is not there. A line cut off by an interrupt is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            print(f"{path.name}: left out a broken line", file=sys.stderr)
    return rows


def append(path: Path, row: Row) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(finite(row), allow_nan=False) + "\n")


def write(path: Path, rows: Iterable[Row]) -> None:
    """Replaces the file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text("".join(json.dumps(finite(row), allow_nan=False) + "\n" for row in rows), encoding="utf-8")
    os.replace(new, path)


def finite(value: Any) -> Any:
    """JSON knows no NaN: what diverged is null."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def spread(values: list[float], form: str) -> str:
    """Mean ± standard deviation, or the value if there is one."""
    text = format(mean(values), form)
    return f"{text} ± {format(stdev(values), form).lstrip('+')}" if len(values) > 1 else text
