"""Pictures of the results, by matplotlib. Drawn without a display."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradwire.bench.arguments import human_size
from gradwire.bench.report import Row

_MARKERS = "os^Dv<>Px*"


def _figure(width: float, height: float, panels: int) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, panels, figsize=(width, height), layout="constrained")
    return figure, axes


def _label(row: Row) -> str:
    words = [row["library"]]
    if row["library"] == "gradwire":
        words.append(row["codec"])
        if row["asked"] != "auto":
            words.append(row["asked"])
    return " ".join(words)


def all_reduce(path: str, rows: Sequence[Row], title: str) -> None:
    """Time and bus bandwidth against size, one line per library, codec and algorithm asked for."""
    figure, (left, right) = _figure(12, 5, 2)
    lines: dict[str, list[Row]] = {}
    for row in rows:
        if row["time_us"]:  # a wrong result has no time
            lines.setdefault(_label(row), []).append(row)
    for n, (label, points) in enumerate(lines.items()):
        style = {
            "marker": _MARKERS[n % len(_MARKERS)],
            "color": f"C{n % 10}",
            "markersize": 5,
            # a peer is dashed, so that it is told apart without colour
            "linestyle": "-" if points[0]["library"] == "gradwire" else "--",
        }
        sizes = [p["size"] for p in points]
        left.plot(sizes, [p["time_us"] for p in points], label=label, **style)
        right.plot(sizes, [p["busbw"] or float("nan") for p in points], label=label, **style)
    sizes = sorted({row["size"] for row in rows})
    for axis, what in ((left, "time (us)"), (right, "bus bandwidth (GB/s of uncompressed data)")):
        axis.set(xscale="log", yscale="log", xlabel="size", ylabel=what)
        axis.set_xticks(sizes, [human_size(s) for s in sizes], rotation=45, ha="right")
        axis.minorticks_off()
        axis.grid(visible=True, which="major", alpha=0.3)
    left.legend(fontsize="small")
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=150)


def codec(path: str, rows: Sequence[Row], title: str) -> None:
    """Speed as a share of memcpy, and what the speed buys: error against bits per element."""
    figure, (left, right) = _figure(12, 5, 2)
    stages = ("encode", "decode", "decode_add")
    for n, stage in enumerate(stages):
        # points, for bars mean nothing on a log axis, which top-k's decode_add needs
        places = [i + (n - 1) * 0.15 for i in range(len(rows))]
        shares = [row[f"{stage}_memcpy"] for row in rows]
        left.plot(places, shares, marker=_MARKERS[n], linestyle="", label=stage)
    left.axhline(1, color="black", linewidth=1, linestyle="--")
    left.set_xticks(range(len(rows)), [row["codec"] for row in rows], rotation=20, ha="right")
    left.set(yscale="log", ylabel="fp32 elements per second over memcpy's")
    left.legend(fontsize="small")
    left.grid(visible=True, axis="y", alpha=0.3)
    for n, row in enumerate(rows):
        # an exact codec has no place on a log axis: drawn at fp32's own roundoff, and said to be exact
        label = row["codec"] if row["rel_err"] else f"{row['codec']} (exact)"
        right.plot(
            row["bits"], max(row["rel_err"], 2**-24), marker=_MARKERS[n % len(_MARKERS)], color=f"C{n % 10}"
        )
        place = (row["bits"], max(row["rel_err"], 2**-24))
        right.annotate(label, place, (0, 7), textcoords="offset points", ha="center", fontsize="small")
    right.set(
        xscale="log",
        yscale="log",
        xlabel="bits per element, scales included",
        ylabel="relative L2 error, N(0,1)",
    )
    right.set_xticks([0.25, 0.5, 1, 2, 4, 8, 16, 32], ["1/4", "1/2", "1", "2", "4", "8", "16", "32"])
    right.minorticks_off()
    right.set_xlim(min(0.2, 0.3 * min(row["bits"] for row in rows)), 64)
    right.margins(y=0.15)
    right.grid(visible=True, alpha=0.3)
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=150)
