"""The training study's picture, by matplotlib, without a display."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .rows import where
from .tables import PROMISED, ByMethod, against_dense, middle

# Drawn in colour in the curves, in this order; the others are thin and grey. Dot plots have all of them.
COLOURED = (
    "dense",
    "bf16",
    "int8",
    "int4",
    "int2",
    "sign",
    "top-k 10 %",
    "top-k 1 %",
    "top-k 1 % warm-up",
    "PowerSGD rank 4",
)
TITLES = {"byte-gpt": "byte-GPT, AdamW", "digits": "digits network, SGD with momentum"}


def convergence(path: Path, tasks: Mapping[str, ByMethod], judged: Mapping[str, str]) -> None:
    """One row of panels a task: the way down against bytes, and where each method ended against dense."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tasks = {name: methods for name, methods in tasks.items() if "dense" in methods}
    if not tasks:
        return
    most = max(len(methods) for methods in tasks.values())
    height = max(4.2, 1.2 + 0.235 * most)
    figure, axes = plt.subplots(
        len(tasks), 2, figsize=(14, height * len(tasks)), layout="constrained", squeeze=False
    )
    for (left, right), (task, methods) in zip(axes, tasks.items()):
        _curves(left, methods, judged[task])
        _dots(right, methods, judged[task])
        left.set_title(f"{TITLES[task]}: held-out {judged[task]} against bytes", fontsize=11)
        right.set_title(f"{TITLES[task]}: where each method ended", fontsize=11)
    first = next(iter(tasks.values()))["dense"][0]
    seeds = sorted({r["seed"] for methods in tasks.values() for rows in methods.values() for r in rows})
    figure.suptitle(
        f"What compression does to training: {first['ranks']} ranks, {first['steps']} steps, seeds "
        f"{', '.join(map(str, seeds))}; line and dot: mean, band: lowest to highest seed\n"
        f"{where(first['run'])}",
        fontsize=10,
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _curves(panel: Any, methods: ByMethod, judged: str) -> None:
    names = [n for n in COLOURED if n in methods]
    for name, rows in methods.items():
        good = [r for r in rows if not r["diverged"]]
        if not good:
            continue
        x = [p["bytes"] / 1e6 for p in good[0]["curve"]]
        points = [[r["curve"][i][judged] for r in good] for i in range(len(x))]
        y = [middle(values)[0] for values in points]
        if name not in names:
            panel.plot(x, y, color="0.75", linewidth=0.7, zorder=1)
            continue
        i = COLOURED.index(name)
        colour, marker = f"C{i % 10}", "os^Dv<>Px*"[i % 10]
        panel.plot(x, y, color=colour, marker=marker, markersize=3.5, linewidth=1.5, label=name, zorder=3)
        low, high = [min(v) for v in points], [max(v) for v in points]
        panel.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0, zorder=2)
    panel.set(xscale="log", xlabel="MB a rank has sent (log)", ylabel=f"held-out {judged}")
    panel.grid(alpha=0.3, which="both")
    panel.legend(frameon=False, fontsize="small", loc="upper right" if judged == "loss" else "lower right")


def _dots(panel: Any, methods: ByMethod, judged: str) -> None:
    """One line a method, sorted by bytes: each seed, the mean, and the promise where there is one."""
    dense = methods["dense"]
    names = sorted((n for n in methods if n != "dense"), key=lambda n: methods[n][0]["ratio"])
    for place, name in enumerate(names):
        rows = methods[name]
        worse = [100 * w for w in against_dense(rows, dense, judged)]
        colour = f"C{COLOURED.index(name) % 10}" if name in COLOURED else "0.35"
        if worse:
            panel.plot(worse, [place] * len(worse), "|", color=colour, markersize=9, zorder=2)
            panel.plot(middle(worse)[0], place, "o", color=colour, markersize=5, zorder=3)
        else:
            panel.annotate("diverged", (0, place), fontsize="small", color="firebrick", va="center")
        if name in PROMISED:
            panel.plot([100 * PROMISED[name]] * 2, [place - 0.4, place + 0.4], color="firebrick", linewidth=2)
    panel.axvline(0, color="black", linewidth=1)
    panel.set_xscale("symlog", linthresh=1, linscale=1.5)
    ticks = (-5, -2, -1, -0.5, 0, 0.5, 1, 2, 5, 10, 20, 50, 100)
    low, high = panel.get_xlim()
    panel.set_xticks([t for t in ticks if low <= t <= high], [f"{t:g}" for t in ticks if low <= t <= high])
    panel.set_xticks([], minor=True)
    panel.set_yticks(range(len(names)), [f"{n}   {methods[n][0]['ratio']:.1f}x" for n in names], fontsize=8)
    panel.set_ylim(len(names) - 0.4, -0.6)
    better = "loss above" if judged == "loss" else "accuracy below"
    panel.set_xlabel(
        f"worse than dense, % ({better} dense's; linear to 1 %)   red: the promise   |: a seed", fontsize=9
    )
    panel.grid(alpha=0.3)
