"""What gradwire promises on a GPU, held against a run's rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gpu_suite.sizes import LARGE, MEDIUM, REDUCED

from gradwire.bench.report import median

Row = dict[str, Any]
OF_COPY = 0.90  # of the copy rate, at LARGE: encode with error feedback, decode_add
TOPK_OVER_TORCH = 3.0  # times as fast, at LARGE
OVER_PEERS = 2.0  # times as fast as the fastest peer, at MEDIUM
OF_FLOOR = 1.25  # two-shot among virtual ranks: its time over that of its bytes at the copy rate


def verdicts(rows: Sequence[Row]) -> list[str]:
    """One line a promise: met, MISSED with the figure, or not measured."""
    return [*_checks(rows), *_shares(rows), *_topk(rows), *_peers(rows), *_floors(rows), *_ddp(rows)]


def _checks(rows: Sequence[Row]) -> Iterator[str]:
    for entry in dict.fromkeys(row["entry"] for row in rows if row["part"] == "check"):
        of_entry = [row for row in rows if row["part"] == "check" and row["entry"] == entry]
        skipped = next((row["skipped"] for row in of_entry if row["skipped"]), None)
        wrong = sum(row["wrong"] or 0 for row in of_entry)
        compared = sum(row["compared"] for row in of_entry)
        if wrong:
            yield f"MISSED: {entry}: {skipped or f'{wrong} wrong in {compared} compared'}"
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


def _floors(rows: Sequence[Row]) -> Iterator[str]:
    timed = [
        r for r in rows if r["part"] == "all_reduce" and r["stage"] == "two-shot" and r["size"] == REDUCED
    ]
    for row in timed:
        over, what = row["over_floor"], f"two-shot {row['codec'] or ''} of {row['entry']}"
        yield f"{_met(over <= OF_FLOOR)}: {what}: {over:.2f}x its floor, bar {OF_FLOOR}x"
    if not timed:
        yield "not measured: two-shot over its floor"


def _ddp(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row["part"] == "ddp":
            what = f"{row['entry']}, shown in {' and '.join(row['traces'])}"
            if row["wrong"]:
                yield f"MISSED: {what}: its ranks ended with different parameters"
            elif row["hidden"] is None:
                yield f"not measured: {what}: overlap on a GPU"
            else:
                hidden = f"{row['hidden']:.0%} of the shorter of computing and communicating hidden"
                yield f"{_met(row['hidden'] > 0)}: {what}: {hidden}, bar 0%"


def faster(ours: Row, peer: Row) -> float:
    """How many times as fast: the median of the ratios within one round."""
    return median([b / a for a, b in zip(ours["seconds"], peer["seconds"])])


def _met(good: bool) -> str:
    return "met" if good else "MISSED"
