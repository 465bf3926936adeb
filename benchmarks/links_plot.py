"""Draws results/links.jsonl: the share of iperf3 on limited links, and Gloo's time over gradwire's.

python benchmarks/links_plot.py                 # needs matplotlib; writes results/links.png
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
CODECS = {"none": "tab:blue", "int8": "tab:orange", "int4": "tab:green"}
KIB, MIB = 1024, 1 << 20


def size_of(row: dict[str, Any]) -> str:
    size = row["size"]
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB" if size >= KIB else f"{size} B"


def place_of(row: dict[str, Any]) -> str:
    rate = {"off": "no limit", "lo": "loopback"}.get(row["link"]["rate"], row["link"]["rate"])
    return f"{row['run']['ranks']} hosts\n{rate}\n{size_of(row)}"


def bars(axis: Any, rows: list[dict[str, Any]], key: str, line: float) -> None:
    places = list(dict.fromkeys(place_of(r) for r in rows))
    series = list(dict.fromkeys((r["library"], r["codec"]) for r in rows))
    width = 0.8 / len(series)
    for i, (library, codec) in enumerate(series):
        mine = [r for r in rows if (r["library"], r["codec"]) == (library, codec)]
        at = [places.index(place_of(r)) + (i - len(series) / 2 + 0.5) * width for r in mine]
        color = CODECS[codec] if library == "gradwire" else "lightgray"
        name = library if codec == "none" else f"{library}, {codec}"
        axis.bar(at, [r[key] for r in mine], width, color=color, label=name)
    axis.axhline(line, color="black", linewidth=0.8, linestyle=":")
    axis.set_xticks(range(len(places)), places, fontsize=7)
    axis.legend(fontsize=7, loc="lower left")


def main() -> None:
    import matplotlib.pyplot as plt

    rows = [json.loads(line) for line in (RESULTS / "links.jsonl").read_text().splitlines()]
    full = [r for r in rows if r["batch"] > 1]
    limited = [r for r in full if r["link"]["rate"].endswith("bit") and r["size"] >= MIB]
    chosen = [r for r in rows if r["library"] == "gradwire" and r["asked"] == "auto"]
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(11, 7.5), constrained_layout=True)
    bars(top, limited, "share", 1)
    top.set_title("bytes on the wire over iperf3's on the same link, ring (1 = line rate)", fontsize=9)
    bars(bottom, chosen, "vs_gloo", 1)
    bottom.set_yscale("log")
    bottom.set_title("Gloo's time over gradwire's, algorithm auto, fp32", fontsize=9)
    figure.savefig(RESULTS / "links.png", dpi=110)


if __name__ == "__main__":
    main()
