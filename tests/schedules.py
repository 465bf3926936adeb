"""Every algorithm with every collective it has, and the schedules of all ranks of one."""

from __future__ import annotations

from typing import Any

from gradwire import _native as native

COLLECTIVES = ("all_reduce", "reduce_scatter", "all_gather", "broadcast", "all_to_all", "barrier")
NAMES = [a["name"] for a in native.algorithms()]
CASES = [(a, c) for a in NAMES for c in COLLECTIVES if native.supports(a, c, 4)]
FLAT = native.Topology()


def group(
    algorithm: str, collective: str, size: int, root: int = 0, topology: native.Topology = FLAT
) -> list[Any]:
    root = root if collective == "broadcast" else -1
    return [native.make_schedule(algorithm, collective, rank, size, root, topology) for rank in range(size)]
