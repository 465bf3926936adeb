"""Every algorithm and every collective it supports: proved for n = 1..17, sums in the documented order."""

from __future__ import annotations

import importlib.util
import itertools
import re
from collections import deque
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from schedules import CASES, COLLECTIVES, NAMES, group

from gradwire import _native as native
from gradwire.errors import ArgumentError


def topologies(size: int) -> list[native.Topology]:
    """Ranks in pairs, unevenly and crosswise on hosts; a ring of its own; one and all ranks on slow paths."""
    rng = np.random.default_rng(size)
    order = [int(r) for r in rng.permutation(size)]
    return [
        native.Topology(host=[r // 2 for r in range(size)], order=order),
        native.Topology(host=[r % 3 for r in range(size)]),
        native.Topology(host=[int(r > size // 3) for r in range(size)], slow=[r == 1 for r in range(size)]),
        native.Topology(host=list(range(size)), order=order, slow=[r % 3 == 0 for r in range(size)]),
        native.Topology(slow=[True] * size),
    ]


# -- the proof ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("algorithm", "collective"), CASES)
def test_every_schedule_is_proved_for_1_to_17_ranks(algorithm: str, collective: str) -> None:
    for size in range(1, 18):
        if not native.supports(algorithm, collective, size):
            continue
        for root in {0, size // 2, size - 1} if collective == "broadcast" else {0}:
            ranks = group(algorithm, collective, size, root)
            for segments, depth, capacity in itertools.product((1, 2, 3), (1, 2), (1, 2)):
                assert native.verify(ranks, segments, depth, capacity) == "", (
                    size,
                    root,
                    segments,
                    depth,
                    capacity,
                )


@pytest.mark.parametrize(("algorithm", "collective"), CASES)
def test_deep_pipelines_and_large_groups_are_proved_too(algorithm: str, collective: str) -> None:
    assert native.verify(group(algorithm, collective, 8), 9, 16, 1) == ""
    assert native.verify(group(algorithm, collective, 33), 2, 4, 8) == ""


@pytest.mark.parametrize(("algorithm", "collective"), CASES)
def test_every_schedule_is_proved_on_every_topology(algorithm: str, collective: str) -> None:
    for size in range(2, 18):
        for topology in topologies(size):
            ranks = group(algorithm, collective, size, size // 2, topology)
            for segments, depth, capacity in ((1, 1, 1), (3, 2, 1)):
                complaint = native.verify(ranks, segments, depth, capacity)
                assert complaint == "", (size, topology, segments, depth, capacity)


def test_hierarchical_uses_the_codec_across_hosts_only() -> None:
    host = [0, 0, 0, 1, 1, 2, 2]
    for algorithm in ("hierarchical", "hierarchical_ring", "hierarchical_tree"):
        for schedule in group(algorithm, "all_reduce", 7, topology=native.Topology(host=host)):
            for step in itertools.chain(*schedule.lanes):
                inside = {host[peer] == host[schedule.rank] for peer in step.peers}
                assert inside == {step.raw}, (algorithm, schedule.rank, step)


def test_slow_ranks_move_no_more_than_an_all_reduce_must() -> None:
    topology = native.Topology(slow=[False, False, True, False, False])
    for algorithm in ("direct", "double_tree"):
        slow = group(algorithm, "all_reduce", 5, topology=topology)[2]
        sends = [s for lane in slow.lanes for s in lane if s.kind == "send"]
        receives = [p for lane in slow.lanes for s in lane if s.kind != "send" for p in s.peers]
        assert len(sends) == slow.chunks and len(receives) == slow.chunks


def test_the_link_of_a_slow_rank_works_both_ways_from_the_start_of_a_double_tree() -> None:
    top, leaf = ["recv_reduce", "send"], ["send", "recv"]
    ranks = group(
        "double_tree", "all_reduce", 6, topology=native.Topology(slow=[r % 2 == 0 for r in range(6)])
    )
    found = [[[s.kind for s in lane] for lane in ranks[r].lanes] for r in (0, 2, 4)]
    assert found == [[top, leaf], [leaf, leaf], [leaf, leaf]]
    above = ranks[ranks[0].lanes[1][0].peers[0]].lanes[1]
    assert all(s.complete for s in above)  # the root: whatever it sends is finished
    ranks = group("double_tree", "broadcast", 3, topology=native.Topology(slow=[False, False, True]))
    assert {s.kind for lane in ranks[2].lanes for s in lane} == {"recv"}  # nobody waits for it


def test_a_topology_of_another_size_is_refused() -> None:
    for wrong in (
        native.Topology(host=[0, 0, 1]),
        native.Topology(order=[0, 2]),
        native.Topology(order=[0, 0]),
        native.Topology(slow=[True]),
    ):
        with pytest.raises(ArgumentError, match="topology"):
            native.make_schedule("ring", "all_reduce", 0, 2, -1, wrong)


def test_every_collective_has_an_algorithm_at_every_size() -> None:
    for collective in COLLECTIVES:
        for size in range(1, 18):
            assert any(native.supports(a, collective, size) for a in NAMES), (collective, size)


def test_ids_and_names_are_unique_and_fit_the_header() -> None:
    ids = [a["id"] for a in native.algorithms()]
    assert len(set(ids)) == len(ids) and all(0 < i < 256 for i in ids)
    assert len(set(NAMES)) == len(NAMES) and all(a["summary"] for a in native.algorithms())


def test_a_single_rank_has_no_steps() -> None:
    for algorithm, collective in CASES:
        assert group(algorithm, collective, 1)[0].lanes == []


# -- the same schedules, run on numbers by other code -------------------------------------------------


def run_all_reduce(ranks: list[Any], inputs: np.ndarray) -> np.ndarray:
    """[rank, chunk] float32 to [rank, chunk]: eager sends, steps in order, lanes one after the other."""
    held = inputs.copy()
    todo = {(s.rank, i): deque(lane) for s in ranks for i, lane in enumerate(s.lanes)}
    wire: dict[tuple[int, int, int], deque[np.float32]] = {}
    while any(todo.values()):
        moved = False
        for (rank, lane), steps in todo.items():
            while steps:
                step = steps[0]
                ends = [(p, rank, lane) for p in step.peers]
                if step.kind == "send":
                    wire.setdefault((rank, step.peers[0], lane), deque()).append(held[rank, step.chunk])
                elif not all(wire.get(end) for end in ends):
                    break
                elif step.kind == "recv":
                    held[rank, step.chunk] = wire[ends[0]].popleft()
                else:
                    terms = {p: wire[end].popleft() for p, end in zip(step.peers, ends)}
                    terms[rank] = held[rank, step.chunk]
                    total = terms[min(terms)]
                    for p in sorted(terms)[1:]:
                        total = np.float32(total + terms[p])
                    held[rank, step.chunk] = total
                steps.popleft()
                moved = True
        assert moved, "deadlock"
    return held


@pytest.mark.parametrize("algorithm", [a for a, c in CASES if c == "all_reduce"])
@pytest.mark.parametrize("size", [2, 3, 5, 8, 13])
def test_numbers_are_summed_in_the_documented_order(algorithm: str, size: int) -> None:
    ranks = group(algorithm, "all_reduce", size)
    x = np.random.default_rng(size).standard_normal((size, ranks[0].chunks)).astype(np.float32)
    result = run_all_reduce(ranks, x)
    for chunk in range(ranks[0].chunks):
        order = re.sub(r"\d+", lambda m: f"v[{m.group()}]", native.sum_order(ranks, chunk))
        expected = eval(order, {"v": list(x[:, chunk])})
        assert result[:, chunk].tobytes() == np.full(size, expected, np.float32).tobytes()


def test_direct_and_one_shot_sum_in_rank_order() -> None:
    for algorithm in ("direct", "one_shot"):
        assert native.sum_order(group(algorithm, "all_reduce", 4), 0) == "((0+1)+2)+3"


# -- point to point, arguments ---------------------------------------------------------------------------


def test_a_send_and_its_receive_are_proved_and_a_lone_one_is_refused() -> None:
    def end(rank: int, kind: str) -> Any:
        step = native.Step(kind, 0, 0, [1 - rank], True)
        return native.Schedule("", kind, rank, 2, -1, 1, [[step]], 1)

    assert native.verify([end(0, "send"), end(1, "recv")]) == ""
    assert "never receives this message" in native.verify([end(0, "send"), end(1, "send")])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (("rnig", "all_reduce", 0, 2), "known: direct, ring"),
        (("ring", "all_redcue", 0, 2), "known: all_reduce"),
        (("ring", "barrier", 0, 2), "algorithms that do: one_shot"),
        (("ring", "all_reduce", 2, 2), "expected 0 to 1"),
        (("ring", "all_reduce", 0, 0), "at least one rank"),
        (("direct", "broadcast", 0, 2), "root is -1"),
    ],
)
def test_bad_arguments_are_told_what_is_allowed(call: tuple[Any, ...], says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        native.make_schedule(*call)


# -- the page --------------------------------------------------------------------------------------------


def table_tool() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "algorithms_table.py"
    spec = importlib.util.spec_from_file_location("algorithms_table", path)
    assert spec and spec.loader
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def test_the_table_of_algorithms_is_up_to_date() -> None:
    assert table_tool().main(["--check"]) == 0, "run python tools/algorithms_table.py"


def test_every_algorithm_has_a_section() -> None:
    page = table_tool().PAGE.read_text(encoding="utf-8")
    for name in NAMES:
        assert f"\n## {name}\n" in page
