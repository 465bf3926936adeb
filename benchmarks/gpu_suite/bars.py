"""What gradwire promises on a GPU, held against a run's rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gpu_suite.sizes import LARGE, MEDIUM

from gradwire.bench.report import median

Row = dict[str, Any]
OF_COPY = 0.90  # of the copy rate, at LARGE: encode with error feedback, decode_add
TOPK_OVER_TORCH = 3.0  # times as fast, at LARGE
OVER_PEERS = 2.0  # times as fast as the fastest peer, at MEDIUM
OF_FLOOR = 1.25  # two-shot among virtual ranks: its time over that of its bytes at the copy rate


def verdicts(rows: Sequence[Row]) -> list[str]:
    """One line a promise: met, MISSED with the figure, or not measured."""
    return [*_checks(rows), *_shares(rows), *_topk(rows), *_peers(rows)]


def _checks(rows: Sequence[Row]) -> Iterator[str]:
    for entry in dict.fromkeys(row["entry"] for row in rows if row["part"] == "check"):
        of_entry = [row for row in rows if row["part"] == "check" and row["entry"] == entry]
        skipped = next((row["skipped"] for row in of_entry if row["skipped"]), None)
        wrong = sum(row["wrong"] or 0 for row in of_entry)
        compared = sum(row["compared"] for row in of_entry)
        if wrong:
            yield f"MISSED: {entry}: {wrong} of {compared} wrong"
        else:
            yield f"not measured: {entry}: {skipped}" if skipped else f"met: {entry}: {compared} compared"


def _timed(rows: Sequence[Row], size: int, stage: str, entry: str = "gradwire") -> list[Row]:
    return [
        row
        for row in rows
        if row["part"] == "codec"
        and (row["entry"], row["stage"], row["size"]) == (entry, stage, size)
        and row["seconds"]
    ]


def _shares(rows: Sequence[Row]) -> Iterator[str]:
    for stage in ("encode_ef_fp32", "encode_ef_bf16", "encode_ef_int8", "decode_add"):
        for row in _timed(rows, LARGE, stage):
            share, what = row["of_copy"], f"{stage} {row['codec']}"
            yield f"{_met(share >= OF_COPY)}: {what}: {share:.1%} of the copy rate, bar {OF_COPY:.0%}"


def _topk(rows: Sequence[Row]) -> Iterator[str]:
    ours, peer = _timed(rows, LARGE, "topk"), _timed(rows, LARGE, "topk", "torch")
    if ours and peer:
        times = faster(ours[0], peer[0])
        yield f"{_met(times >= TOPK_OVER_TORCH)}: top-k: {times:.2f}x torch.topk, bar {TOPK_OVER_TORCH}x"
    else:
        yield "not measured: top-k against torch.topk at the large size"


def _peers(rows: Sequence[Row]) -> Iterator[str]:
    for stage in ("encode_ef_fp32", "decode_add", "topk"):
        ours = [r for r in _timed(rows, MEDIUM, stage) if r["codec"].startswith(("int8", "topk"))]
        names = {r["entry"] for r in rows if r["part"] == "codec"} - {"gradwire", "copy"}
        peers = [row for name in names for row in _timed(rows, MEDIUM, stage, name)]
        if not ours or not peers:
            yield f"not measured: {stage} against peers at the medium size"
            continue
        best = min(peers, key=lambda row: row["time_us"])
        times, what = faster(ours[0], best), f"{stage} at the medium size"
        yield f"{_met(times >= OVER_PEERS)}: {what}: {times:.2f}x {best['entry']}, bar {OVER_PEERS}x the best"


def faster(ours: Row, peer: Row) -> float:
    """How many times as fast: the median of the ratios within one round."""
    return median([b / a for a, b in zip(ours["seconds"], peer["seconds"])])


def _met(good: bool) -> str:
    return "met" if good else "MISSED"
