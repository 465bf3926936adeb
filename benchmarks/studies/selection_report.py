"""What the rows of selection.py show: errors, choices against the best, where the ring passes the tree."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

Row = dict[str, Any]
WHERE = ("net", "ranks", "per_host")
CELL = (*WHERE, "size", "codec")


def latest(path: Path) -> list[Row]:
    """Of every candidate its last row."""
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return list({tuple(row[key] for key in (*CELL, "algorithm")): row for row in rows}.values())


def grouped(rows: list[Row], keys: tuple[str, ...]) -> dict[tuple[Any, ...], list[Row]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def place(row: Row) -> str:
    ranks = f"{row['ranks'] // row['per_host']} x {row['per_host']}" if row["per_host"] > 1 else row["ranks"]
    return f"{row['net']}, {ranks} ranks"


def choice_of(cell: list[Row]) -> tuple[Row, Row, float]:
    """The one that auto takes, the best, and the time of the first over the other's."""
    chosen = next(row for row in cell if row["chosen"])
    best = min(cell, key=lambda row: row["time_us"])
    return chosen, best, chosen["time_us"] / best["time_us"]


def crossover(rows: list[Row], key: str) -> str:
    """Below which size double_tree beats ring, by `key`; between sizes the ratio's logarithm is a line."""
    points = []
    for (size,), cell in sorted(grouped(rows, ("size",)).items()):
        seconds = {name: row[key] for row in cell for name in row["alike"]}
        if {"ring", "double_tree"} <= seconds.keys():
            points.append((math.log2(size), math.log(seconds["double_tree"] / seconds["ring"])))
    for (a, before), (b, after) in zip(points, points[1:]):
        if before < 0 <= after:
            return f"{2 ** (a + (b - a) * before / (before - after)) / 1024:.0f} KiB"
    if not points or points[0][1] >= 0:
        return "no size"
    return f"more than {2 ** points[-1][0] / 1024:.0f} KiB"


def summary(name: str, rows: list[Row]) -> str:
    errors = sorted(abs(row["error"]) for row in rows)
    ratios = sorted(choice_of(cell)[2] for cell in grouped(rows, CELL).values())
    within = sum(error <= 0.25 for error in errors) / len(errors)
    good = sum(ratio <= 1.1 for ratio in ratios)
    return (
        f"{name}: {len(errors)} predictions, error median {statistics.median(errors):.1%}, "
        f"{within:.1%} within 25 %, worst {errors[-1]:.0%}; auto over the best: median "
        f"{statistics.median(ratios):.3f}, within 10 % in {good} of {len(ratios)}, worst {ratios[-1]:.2f}"
    )


def codec_auto(rows: list[Row]) -> str:
    """Per size: what it took, and its time over that without a codec, the median of the rounds."""
    words = []
    for (size,), pair in sorted(grouped(rows, ("size",)).items()):
        times = {row["codec"]: row["seconds"] for row in pair}
        ratio = statistics.median(auto / none for auto, none in zip(times["auto"], times["none"]))
        took = next(row["took"] for row in pair if row["codec"] == "auto").partition("(")[0]
        words.append(f"{size}: {took} {ratio:.3f}")
    return f'{place(rows[0])}: codec="auto" over none: {", ".join(words)}'


def report(path: Path, picture: Path) -> None:
    every = latest(path)
    rows = [row for row in every if row["algorithm"] != "auto"]
    for some in grouped(rows, WHERE).values():
        print(f"\n{place(some[0])}\n{'size':>10} {'codec':7}{'auto takes':19}{'us':>11}{'+-':>5}{'error':>7}")
        for cell in grouped(some, CELL).values():
            chosen, best, ratio = choice_of(cell)
            name = f"{chosen['size']:>10} {chosen['codec']:7}{chosen['algorithm']:19}"
            figures = f"{chosen['time_us']:11.1f}{chosen['spread']:5.0%}{chosen['error']:+7.0%}"
            other = "" if best is chosen else f"  {best['algorithm']} {ratio:.2f} times faster"
            print(name + figures + other)
    print()
    for some in grouped(rows, WHERE).values():
        print(summary(place(some[0]), some))
    print(summary("all", rows))
    for some in grouped([r for r in rows if r["codec"] == "none" and r["per_host"] == 1], WHERE).values():
        if some[0]["ranks"] >= 4:
            measured, predicted = crossover(some, "time_us"), crossover(some, "predicted_us")
            print(f"{place(some[0])}: double_tree beats ring below {measured}; predicted: {predicted}")
    for some in grouped([r for r in every if r["algorithm"] == "auto"], WHERE).values():
        print(codec_auto(some))
    draw(rows, picture)


def draw(rows: list[Row], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    for n, ((net,), some) in enumerate(grouped(rows, ("net",)).items()):
        style = {"s": 12, "color": f"C{n}", "marker": "os^D"[n % 4], "alpha": 0.6, "label": net}
        left.scatter([r["time_us"] for r in some], [100 * r["error"] for r in some], **style)
        cells = grouped(some, CELL).values()
        choices = [choice_of(cell) for cell in cells]
        right.scatter([c["time_us"] for c, _, _ in choices], [ratio for _, _, ratio in choices], **style)
    left.axhspan(-10, 10, color="0.85", zorder=0)
    left.set(xscale="log", xlabel="measured (us)", ylabel="error of the prediction (%)", ylim=(-60, 60))
    left.set_title("every candidate; grey: within 10 %", fontsize="medium")
    right.axhspan(1, 1.1, color="0.85", zorder=0)
    right.set(xscale="log", xlabel="measured (us)", ylabel="time of auto over the best candidate's")
    right.set_title("every choice", fontsize="medium")
    for axis in (left, right):
        axis.grid(visible=True, alpha=0.3)
        axis.legend(fontsize="small")
    figure.savefig(path, dpi=110)
