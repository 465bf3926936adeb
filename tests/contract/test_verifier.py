"""What the verifier refuses: every planted bug of every schedule, with the place where it shows."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from schedules import CASES, group

from gradwire import _native as native

PLACE = re.compile(r"rank \d+, lane \d+, step \d+ \(")


def other(value: int, count: int) -> int:
    return (value + 1) % count


def wrong_peer(s: Any, steps: list[Any], i: int) -> None:
    rank, peers = s.rank, steps[i].peers
    free = [p for p in range(s.size) if p != rank and p not in peers]
    # a fold of everyone has no other peer to take: it loses one
    steps[i].peers = sorted([*peers[1:], free[0]]) if free else peers[1:]


def wrong_chunk(s: Any, steps: list[Any], i: int) -> None:
    steps[i].chunk = other(steps[i].chunk, s.chunks + 1)  # at times one that does not exist


def dropped(_: Any, steps: list[Any], i: int) -> None:
    del steps[i]


def doubled(_: Any, steps: list[Any], i: int) -> None:
    steps.insert(i, steps[i])


def late(_: Any, steps: list[Any], i: int) -> None:
    for step in steps[i:]:  # the order within the lane stays right
        step.round += 1


def out_of_order(_: Any, steps: list[Any], i: int) -> None:
    steps[i].round += 100


def untruthful(_: Any, steps: list[Any], i: int) -> None:
    steps[i].complete = not steps[i].complete


def turned_round(_: Any, steps: list[Any], i: int) -> None:
    steps[i].kind = {"send": "recv", "recv": "send", "recv_reduce": "recv"}[steps[i].kind]


MUTATIONS = [wrong_peer, wrong_chunk, dropped, doubled, late, out_of_order, untruthful, turned_round]


@pytest.mark.parametrize("mutate", MUTATIONS)
@pytest.mark.parametrize(("algorithm", "collective"), CASES)
def test_every_change_of_a_single_step_is_refused(
    algorithm: str, collective: str, mutate: Callable[[Any, list[Any], int], None]
) -> None:
    for rank, lane, i in places(group(algorithm, collective, 4)):
        ranks = group(algorithm, collective, 4)
        lanes = ranks[rank].lanes
        mutate(ranks[rank], lanes[lane], i)
        ranks[rank].lanes = lanes
        complaint = native.verify(ranks)
        assert PLACE.search(complaint), (rank, lane, i, complaint)


def places(ranks: list[Any]) -> list[tuple[int, int, int]]:
    return [(s.rank, lane, i) for s in ranks for lane, steps in enumerate(s.lanes) for i in range(len(steps))]


def test_a_swap_of_two_peers_names_the_message_and_where_it_came_from() -> None:
    ranks = group("direct", "all_reduce", 4)
    (steps,) = ranks[1].lanes
    steps[0].peers, steps[1].peers = steps[1].peers, steps[0].peers
    ranks[1].lanes = [steps]
    assert native.verify(ranks) == (
        "rank 2, lane 0, step 3 (recv_reduce of chunk 2 from 0, 1, 3 in round 0): segment 0 expects an "
        "incomplete message, gets segment 0 of an incomplete one from rank 1, lane 0, step 1 "
        "(send of chunk 3 to 2 in round 0)"
    )


def two(first: list[Any], second: list[Any]) -> list[Any]:
    return [
        native.Schedule("by hand", "all_reduce", rank, 2, -1, 1, [lane], 1)
        for rank, lane in enumerate((first, second))
    ]


def test_ranks_that_wait_for_one_another_are_a_deadlock() -> None:
    def wait_first(peer: int) -> list[Any]:
        return [native.Step("recv", 0, 0, [peer], True), native.Step("send", 0, 1, [peer], True)]

    complaint = native.verify(two(wait_first(1), wait_first(0)))
    assert PLACE.match(complaint) and "deadlock, waits for rank 1" in complaint


def test_a_message_that_nobody_sends_names_the_silent_rank() -> None:
    complaint = native.verify(two([native.Step("recv_reduce", 0, 0, [1], True)], []))
    assert complaint.endswith("waits for a message that rank 1 never sends") and PLACE.match(complaint)


def three(*steps: list[Any]) -> list[Any]:
    return [
        native.Schedule("by hand", "all_reduce", rank, 3, -1, 1, [lane], 2) for rank, lane in enumerate(steps)
    ]


def test_ranks_that_fold_in_different_orders_are_refused() -> None:
    send, fold, step = "send", "recv_reduce", native.Step
    ranks = three(
        [step(send, 0, 0, [2]), step(fold, 0, 0, [1, 2], True), step(send, 0, 2, [1], True)],
        [step(send, 0, 0, [0]), step(send, 0, 1, [2]), step("recv", 0, 2, [0], True)],
        [step(send, 0, 0, [0]), step(fold, 0, 0, [0]), step(fold, 0, 1, [1], True)],
    )
    assert native.verify(ranks) == (
        "rank 2 ends with chunk 0, segment 0 holding 1+(0+2), rank 0 holds (0+1)+2: the order of sums differs"
    )


def test_a_replica_that_a_lossy_codec_would_make_differ_is_refused() -> None:
    send, fold, step = "send", "recv_reduce", native.Step
    # rank 1 gets rank 0's finished sum through the codec, rank 2 makes the same sum itself, unencoded
    ranks = three(
        [step(send, 0, 0, [2]), step(fold, 0, 0, [1, 2], True), step(send, 0, 1, [1], True)],
        [step(send, 0, 0, [0]), step(send, 0, 0, [2]), step("recv", 0, 1, [0], True)],
        [step(send, 0, 0, [0]), step(fold, 0, 0, [0, 1], True)],
    )
    assert native.verify(ranks).endswith("the same sum, but encoded differently; the replicas would differ")


def test_an_incomplete_value_is_encoded_once_only() -> None:
    ranks = group("ring", "all_reduce", 4)
    (steps,) = ranks[0].lanes
    # after adding a neighbour's value to the chunk that it sent first
    chunk = steps[0].chunk
    bad = [steps[0], native.Step("recv_reduce", chunk, 1, [3]), native.Step("send", chunk, 2, [1])]
    ranks[0].lanes = [bad]
    assert "encodes an incomplete value of the chunk a second time" in native.verify(ranks)


def test_lanes_must_not_share_a_chunk() -> None:
    ranks = group("double_tree", "all_reduce", 4)
    lanes = ranks[2].lanes
    for step in lanes[1]:
        step.chunk = 0
    ranks[2].lanes = lanes
    complaint = native.verify(ranks)
    assert PLACE.match(complaint) and complaint.endswith("the chunk is also touched by lane 0")


def test_a_wrong_count_of_lossy_encodes_is_refused() -> None:
    ranks = group("ring", "all_reduce", 5)
    ranks[3].lossy_encodes = 2
    assert native.verify(ranks) == "rank 3 says lossy_encodes is 2, but a value goes through 5"


def test_a_wrong_count_of_nested_sums_is_refused() -> None:
    ranks = group("ring", "all_reduce", 5)
    ranks[3].nested_sums = 2
    assert native.verify(ranks) == "rank 3 says nested_sums is 2, but a value goes through 4"


def test_a_raw_end_needs_a_raw_end() -> None:
    ranks = group("recursive_doubling", "all_reduce", 2)
    (steps,) = ranks[1].lanes
    steps[0].raw = False
    ranks[1].lanes = [steps]
    assert "one end is raw" in native.verify(ranks)


@pytest.mark.parametrize("field", ["rank", "size", "root", "chunks", "lossy_encodes"])
def test_schedules_that_do_not_belong_together_are_refused(field: str) -> None:
    ranks = group("direct", "broadcast", 4)
    setattr(ranks[2], field, getattr(ranks[2], field) + 1)
    assert "rank 2" in native.verify(ranks)
