"""What the training study's rows say: by method, against dense, and against the promises."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import mean, stdev

from rich.table import Table

from .rows import Row, spread

PROMISED = {"int8": 0.005, "int4": 0.01}  # at most so much worse than dense
ByMethod = dict[str, list[Row]]


def by_method(rows: Iterable[Row], order: list[str]) -> ByMethod:
    """Rows by method, in the given order; methods that are no longer offered come last. Seeds ascend."""
    found: ByMethod = {}
    for row in sorted(rows, key=lambda r: r["seed"]):
        found.setdefault(row["method"], []).append(row)
    return {name: found[name] for name in (*order, *sorted(set(found) - set(order))) if name in found}


def against_dense(rows: list[Row], dense: list[Row], judged: str) -> list[float]:
    """Seed by seed, how much worse than dense: the loss above dense's, or the accuracy below it, as a share
    of dense's. Negative is better. Seeds that diverged, or that dense lacks, are left out."""
    reference = {r["seed"]: r[judged] for r in dense}
    sign = 1 if judged == "loss" else -1
    return [
        sign * (r[judged] / reference[r["seed"]] - 1)
        for r in rows
        if r["seed"] in reference and not r["diverged"]
    ]


def convergence_table(task: str, judged: str, methods: ByMethod) -> Table:
    table = Table(title=f"{task}: held-out {judged} over seeds; worse than dense, seed by seed (mean ± std)")
    for heading in ("method", "seeds", "loss", "accuracy", "worse than dense", "kB/step", "ratio"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    dense = methods["dense"]
    for name, rows in methods.items():
        good = [r for r in rows if not r["diverged"]]
        worse = against_dense(rows, dense, judged)
        seeds = f"{len(rows)}" if len(good) == len(rows) else f"{len(rows)}, {len(rows) - len(good)} diverged"
        table.add_row(
            name,
            seeds,
            spread([r["loss"] for r in good], ".4f") if good else "",
            spread([r["accuracy"] for r in good], ".2%") if good and good[0]["accuracy"] is not None else "",
            spread(worse, "+.2%") if worse and name != "dense" else "",
            f"{rows[-1]['bytes_per_step'] / 1e3:,.1f}",
            f"{rows[-1]['ratio']:.1f}x",
        )
    return table


def verdicts(methods: ByMethod, judged: str) -> list[str]:
    lines = []
    for name, bar in PROMISED.items():
        worse = against_dense(methods.get(name, []), methods["dense"], judged)
        if worse:
            said = "within" if mean(worse) <= bar else "NOT within"
            lines.append(
                f"{name} {spread(worse, '+.2%')} worse than dense over {len(worse)} seeds: {said} {bar:.1%}"
            )
    return lines


def middle(values: list[float]) -> tuple[float, float]:
    """(mean, standard deviation), 0 for one value."""
    return mean(values), stdev(values) if len(values) > 1 else 0.0
