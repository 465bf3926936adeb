"""Pictures of the rate-distortion study, by matplotlib, without a display."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .rows import Row, where

# kind: colour, marker, face, what the legend says
KINDS = {
    "dense": ("C0", "o", "C0", "gradwire, every element travels"),
    "sparse": ("C2", "s", "C2", "gradwire, sparse"),
    "peer": ("C1", "^", "none", "peers: torch, torchao, bitsandbytes"),
}

# Where a name may stand, in points from what it names; the first that is free.
OFFSETS = tuple((dx, dy) for dy in (-4, 3, -11, 10) for dx in (8, -8))


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def front(points: Sequence[Row]) -> list[Row]:
    """Those that nothing else beats in both bits and error, fewest bits first."""
    best: list[Row] = []
    for p in sorted(points, key=lambda p: (p["bits"], p["rel_err"])):
        if not best or p["rel_err"] < best[-1]["rel_err"]:
            best.append(p)
    return best


def short(entry: str) -> str:
    """ "int4(block=32)" -> "int4/32"; "topk(ratio=0.01, values=bf16)" -> "topk 1% bf16"."""
    name, _, rest = entry.partition("(")
    words = []
    for part in filter(None, rest.rstrip(")").split(", ")):
        key, _, value = part.partition("=")
        if key == "block":
            name += f"/{value}"
        elif key != "seed":
            words.append(f"{100 * float(value):g}%" if key == "ratio" else value)
    return " ".join([name, *words])


def curves(path: Path, rows: Sequence[Row]) -> None:
    """One panel an input: error against bits, the Gaussian bound, the Pareto front."""
    plt = _pyplot()
    names = list(dict.fromkeys(r["input"] for r in rows))
    figure, axes = plt.subplots(2, 3, figsize=(19, 12.5), layout="constrained", sharex=True, sharey=True)
    lossy = [r for r in rows if r["rel_err"]]
    span = (0.5 * min(r["bits"] for r in lossy), 32.0)
    low = max(0.5 * min(r["rel_err"] for r in lossy), 1e-5)
    axes[0, 0].set(xscale="log", yscale="log", xlim=span, ylim=(low, 2.5))
    ticks = [t for t in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8, 16, 32) if span[0] <= t <= span[1]]
    axes[0, 0].set_xticks(ticks, [f"{t:g}" if t >= 1 else f"1/{1 / t:g}" for t in ticks])
    axes[0, 0].set_xticks([], minor=True)
    percent = [p for p in (100, 30, 10, 3, 1, 0.3, 0.1, 0.03, 0.01, 0.003) if p / 100 >= low]
    axes[0, 0].set_yticks([p / 100 for p in percent], [f"{p:g} %" for p in percent])
    axes[0, 0].set_yticks([], minor=True)
    figure.draw_without_rendering()  # the labels' places depend on the panels' sizes
    for panel, name in zip(axes.flat, names):
        _panel(panel, [r for r in lossy if r["input"] == name], span)
        panel.set_title(name, fontsize=13)
    for panel in axes[:, 0]:
        panel.set_ylabel("relative L2 error of one encode")
    for panel in (*axes[1], axes[0, 2]):
        panel.set_xlabel("bits per element, scales and indices included (log)")
        panel.tick_params(labelbottom=True)
    legend = axes.flat[len(names)]
    legend.set_axis_off()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    run, counts, seeds = rows[0]["run"], sorted({r["count"] for r in rows}), rows[0]["seeds"]
    exact = [
        f"{r['entry']} ({r['bits']:.1f} bits on {r['input']})"
        for r in rows
        if r["rel_err"] == 0 and r["entry"] != "identity" and r["input"] in (names[0], names[-1])
    ]
    legend.legend(handles, labels, loc="upper left", fontsize=12, frameon=False)
    legend.text(
        0.02,
        0.02,
        f"{counts[0]:,} to {counts[-1]:,} elements, mean of seeds {', '.join(map(str, seeds))}.\n"
        "The bound is that of a Gaussian source: other sources of the\nsame energy can be coded below it, "
        "the more the heavier their tails.\nRinged: what nothing else beats in both bits and error; named: "
        "these\nand each codec's default, where there is room.\n"
        + ("Without loss: " + ",\n".join(exact) + ".\n" if exact else "")
        + where(run).replace(", ", ",\n", 1),
        fontsize=11,
        va="bottom",
        transform=legend.transAxes,
    )
    figure.suptitle("What a bit buys: error of one encode against bits per element", fontsize=15)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _panel(panel: Any, rows: Sequence[Row], span: tuple[float, float]) -> None:
    bits = np.geomspace(*span, 200)
    panel.plot(bits, 2.0**-bits, color="black", linewidth=1.2, label="Gaussian bound, 2$^{-R}$")
    best = front(rows)
    panel.plot(
        [r["bits"] for r in best],
        [r["rel_err"] for r in best],
        color="0.55",
        linewidth=1.6,
        linestyle="--",
        label="Pareto front",
    )
    for kind, (colour, marker, face, label) in KINDS.items():
        points = [r for r in rows if r["kind"] == kind]
        panel.plot(
            [r["bits"] for r in points],
            [r["rel_err"] for r in points],
            linestyle="",
            marker=marker,
            color=colour,
            markerfacecolor=face,
            markersize=6,
            alpha=0.85,
            label=label,
        )
    edge = {"linestyle": "", "markerfacecolor": "none", "markeredgecolor": "black", "markersize": 9}
    panel.plot(*zip(*((r["bits"], r["rel_err"]) for r in best)), marker="o", markeredgewidth=0.9, **edge)
    _label(panel, [*best, *(r for r in rows if r["default"] and r not in best)], rows)
    panel.grid(alpha=0.25)


def _label(panel: Any, points: Sequence[Row], obstacles: Sequence[Row], size: float = 8.5) -> None:
    """Names the points in this order, each where it covers neither a name nor a point; else it stays bare."""
    scale = panel.figure.dpi / 72
    dots = [panel.transData.transform((r["bits"], r["rel_err"])) for r in obstacles]
    taken = [(x - 2 * scale, y - 2 * scale, x + 2 * scale, y + 2 * scale) for x, y in dots]
    for r in points:
        x, y = panel.transData.transform((r["bits"], r["rel_err"]))
        text = short(r["entry"])
        width, height = 0.56 * size * len(text) * scale, 1.15 * size * scale
        for dx, dy in OFFSETS:
            left, low = x + dx * scale - (width if dx < 0 else 0), y + dy * scale
            box = (left, low, left + width, low + height)
            if left < panel.bbox.x0 or box[2] > panel.bbox.x1:
                continue
            if all(box[2] < b[0] or b[2] < box[0] or box[3] < b[1] or b[3] < box[1] for b in taken):
                taken.append(box)
                side = "right" if dx < 0 else "left"
                place = {"xytext": (dx, dy), "textcoords": "offset points", "ha": side, "va": "bottom"}
                panel.annotate(text, (r["bits"], r["rel_err"]), fontsize=size, **place)
                break


def all_reduce(path: Path, rows: Sequence[Row], bar: float) -> None:
    """The error of an all-reduce over that of one encode, against the number of ranks."""
    plt = _pyplot()
    figure, panel = plt.subplots(figsize=(9, 5.5), layout="constrained")
    entries = list(dict.fromkeys(r["entry"] for r in rows))
    for i, entry in enumerate(entries):
        points = sorted((r for r in rows if r["entry"] == entry), key=lambda r: r["ranks"])
        panel.plot(
            [r["ranks"] for r in points],
            [r["over_one_encode"] for r in points],
            marker="os^Dv<>Px*"[i % 10],
            color=plt.get_cmap("tab20")(i % 20),
            markersize=4,
            linewidth=1,
            label=short(entry),
        )
    panel.axhline(bar, color="firebrick", linewidth=1.2, linestyle="--", label=f"bar: {bar}")
    sizes = sorted({r["ranks"] for r in rows})
    # the owner adds its own share uncoded, so 1/n of the first encodes lose nothing
    theory = [math.sqrt(2 - 1 / n) for n in sizes]
    panel.plot(sizes, theory, color="black", linewidth=1, label="√(2 - 1/n): independent encodes")
    panel.set_xscale("log", base=2)
    panel.set_xticks(sizes, [str(n) for n in sizes])
    panel.set(xlabel="ranks", ylabel="all-reduce's relative error / one encode's")
    panel.grid(alpha=0.3)
    panel.legend(fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    first = rows[0]
    figure.suptitle(
        f"An all-reduce through direct, sum of N(0,1), {first['count']:,} elements, mean of seeds "
        f"{', '.join(map(str, first['seeds']))}\n{where(first['run'])}",
        fontsize=9,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)
