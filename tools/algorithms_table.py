"""Writes the table in csrc/schedule/ALGORITHMS.md, counted from the schedules themselves.

python tools/algorithms_table.py           rewrites the table
python tools/algorithms_table.py --check   exits with 1 if it is out of date; the contract tests ask
"""

from __future__ import annotations

import sys
from pathlib import Path

from gradwire import _native as native

PAGE = Path(__file__).resolve().parent.parent / "csrc" / "schedule" / "ALGORITHMS.md"
BEGIN = "<!-- begin table: written by tools/algorithms_table.py -->"
END = "<!-- end table -->"

COLLECTIVES = ("all_reduce", "reduce_scatter", "all_gather", "broadcast", "all_to_all", "barrier")
REDUCING = ("all_reduce", "reduce_scatter")
ROUNDS_AT = (2, 4, 8, 16)
COUNTED_AT = 8
ORDER_AT = 4
HEAD = (
    "algorithm",
    "id",
    "collective",
    f"rounds, n = {', '.join(map(str, ROUNDS_AT))}",
    f"bytes sent by the busiest rank, n = {COUNTED_AT}",
    f"lossy encodes, n = {COUNTED_AT}",
    f"order of sums of chunk 0, n = {ORDER_AT}",
)


def group(algorithm: str, collective: str, size: int) -> list[native.Schedule]:
    """Two ranks a host, where that matters."""
    root = 0 if collective == "broadcast" else -1
    pairs = native.Topology(host=[rank // 2 for rank in range(size)])
    return [native.make_schedule(algorithm, collective, rank, size, root, pairs) for rank in range(size)]


def rounds(ranks: list[native.Schedule]) -> int:
    return 1 + max(step.round for s in ranks for lane in s.lanes for step in lane)


def bytes_sent(ranks: list[native.Schedule]) -> float:
    """Of the busiest rank, as a multiple of N; N is the whole array, all chunks together."""
    return max(sum(step.kind == "send" for lane in s.lanes for step in lane) / s.chunks for s in ranks)


def row(algorithm: str, number: int, collective: str) -> tuple[str, ...]:
    counted = group(algorithm, collective, COUNTED_AT)
    empty = collective == "barrier"
    return (
        algorithm,
        str(number),
        collective,
        ", ".join(str(rounds(group(algorithm, collective, n))) for n in ROUNDS_AT),
        "none" if empty else f"{bytes_sent(counted):g} N",
        "none" if empty else str(counted[0].lossy_encodes),
        f"`{native.sum_order(group(algorithm, collective, ORDER_AT), 0)}`" if collective in REDUCING else "",
    )


def table() -> str:
    rows = [HEAD, tuple("---" for _ in HEAD)]
    for algorithm in native.algorithms():
        for collective in COLLECTIVES:
            if all(
                native.supports(algorithm["name"], collective, n) for n in (*ROUNDS_AT, COUNTED_AT, ORDER_AT)
            ):
                rows.append(row(algorithm["name"], algorithm["id"], collective))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def with_table(page: str) -> str:
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main(arguments: list[str]) -> int:
    page = PAGE.read_text(encoding="utf-8")
    wanted = with_table(page)
    if "--check" in arguments:
        if page != wanted:
            print(f"{PAGE} is out of date: run python tools/algorithms_table.py", file=sys.stderr)
        return int(page != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
