"""The price against closed forms, and the choice that follows from it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from gradwire import Communicator
from gradwire import _native as native
from gradwire.errors import ArgumentError
from gradwire.testing import run_ranks

ALPHA, BETA = 20e-6, 1 / 3e9  # a good Ethernet
LINK: dict[str, Any] = {"alpha": ALPHA, "beta": BETA}
MIB = 1 << 20


def estimate(
    algorithm: str, size: int, raw_bytes: int, collective: str = "all_reduce", **question: Any
) -> float:
    return native.estimate(algorithm, collective, size, raw_bytes, **{**LINK, **question})


def choose(size: int, raw_bytes: int, **question: Any) -> tuple[str, dict[str, Any], str]:
    winner, candidates, table = native.select("all_reduce", size, raw_bytes, **{**LINK, **question})
    return winner, {c.algorithm: c for c in candidates}, table


# -- closed forms ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 5, 8, 16, 33, 64, 65, 200])
def test_ring_without_segments_takes_2_n_minus_1_messages(size: int) -> None:
    raw = 16 * 1024 * size  # one segment a chunk
    closed = 2 * (size - 1) * (ALPHA + raw / size * BETA)
    assert estimate("ring", size, raw) == pytest.approx(closed, rel=1e-6)
    assert estimate("ring", size, raw, "all_gather") == pytest.approx(closed / 2, rel=1e-6)


@pytest.mark.parametrize("size", [2, 3, 5, 8, 16])
def test_a_large_ring_is_bound_by_its_bytes(size: int) -> None:
    closed = 2 * (size - 1) / size * 64 * MIB * BETA
    assert closed <= estimate("ring", size, 64 * MIB) <= closed * 1.05 + 2 * (size - 1) * ALPHA


@pytest.mark.parametrize("size", [2, 3, 5, 8, 16, 64, 65, 200])
def test_direct_takes_two_latencies_and_the_bytes(size: int) -> None:
    closed = 2 * ALPHA + 2 * (size - 1) / size * MIB * BETA
    assert estimate("direct", size, 0) == pytest.approx(2 * ALPHA)
    # the second latency overlaps with the first round's later segments
    assert closed - ALPHA <= estimate("direct", size, MIB) * (1 + 1e-9) <= closed * 1.15


@pytest.mark.parametrize("size", [2, 5, 8, 64, 65])
def test_one_shot_takes_one_latency_and_everybodys_bytes(size: int) -> None:
    assert estimate("one_shot", size, 4096) == pytest.approx(ALPHA + (size - 1) * 4096 * BETA, rel=1e-6)


@pytest.mark.parametrize("size", [2, 3, 4, 7, 8, 16, 64, 65, 200])
def test_double_tree_takes_its_height_twice(size: int) -> None:
    height = size.bit_length() - 1
    assert estimate("double_tree", size, 0) == pytest.approx(2 * height * ALPHA)
    # pipelined: at most its 2 N bytes, a third more where streams meet at a port, and the way up and down
    most = 2 * 64 * MIB * BETA * 1.34 + 2 * height * (ALPHA + 2 * 131072 * BETA)
    assert 64 * MIB * BETA <= estimate("double_tree", size, 64 * MIB) <= most


def test_segments_pipeline_a_tree() -> None:
    coarse = estimate("double_tree", 8, 64 * MIB, segment_bytes=64 * MIB)
    # even the coarsest are quarters of a chunk
    assert estimate("double_tree", 8, 64 * MIB) < coarse / 1.1


@pytest.mark.parametrize("collective", ["all_reduce", "broadcast"])
@pytest.mark.parametrize("algorithm", ["direct", "double_tree"])
def test_simulation_and_closed_form_agree_where_they_meet(algorithm: str, collective: str) -> None:
    for raw in (0, 4096, MIB, 64 * MIB):
        simulated, counted = (estimate(algorithm, n, raw, collective) for n in (64, 65))
        assert counted == pytest.approx(simulated, rel=0.35), raw


def test_reducing_costs_gamma_a_source_and_a_codec_costs_more() -> None:
    gamma = 1e-9
    raw = 3 * 16384
    free, paid = estimate("direct", 3, raw), estimate("direct", 3, raw, gamma=gamma)
    assert paid - free == pytest.approx(2 * raw / 3 * gamma, rel=0.02)  # two peers' values of one chunk
    assert estimate("direct", 3, raw, gamma=gamma, lossy=True) > paid


def test_a_ratio_scales_the_bytes_and_not_the_latency() -> None:
    half = estimate("ring", 4, MIB, wire_ratio=0.5)
    assert half == pytest.approx(estimate("ring", 4, MIB // 2, segment_bytes=65536), rel=1e-6)


# -- the choice --------------------------------------------------------------------------------------


def test_small_messages_take_one_round_and_large_ones_the_fewest_bytes() -> None:
    assert choose(8, 256)[0] == "one_shot"
    assert choose(8, 256 * 1024)[0] == "direct"
    assert choose(8, 256 * MIB)[0] in ("direct", "ring")


@pytest.mark.parametrize("size", [4, 8, 17, 100])
@pytest.mark.parametrize("raw_bytes", [0, 1024, MIB, 256 * MIB])
def test_lossy_questions_never_take_what_encodes_more_than_twice(size: int, raw_bytes: int) -> None:
    winner, candidates, table = choose(size, raw_bytes, lossy=True, wire_ratio=0.25, gamma=1e-10)
    assert winner in ("direct", "one_shot")
    for name in ("ring", "double_tree", "halving_doubling"):
        assert not candidates[name].valid
        assert candidates[name].reason == (
            f"re-encodes {candidates[name].lossy_encodes - 1} times: error grows; ask for it by name"
        )
    assert not candidates["recursive_doubling"].valid
    assert {name for name, c in candidates.items() if c.valid} == {"one_shot", "direct"}
    assert "not taken: re-encodes" in table and "not taken: makes no use of the codec" in table


def test_two_ranks_encode_at_most_twice_whatever_the_algorithm() -> None:
    candidates = choose(2, MIB, lossy=True)[1].values()
    assert all(c.valid for c in candidates if c.lossy_encodes)
    assert max(c.lossy_encodes for c in candidates) == 2


def test_16_bit_sums_are_not_rounded_more_than_twice() -> None:
    candidates = choose(8, MIB, rounding=True)[1]
    assert {name for name, c in candidates.items() if c.valid} >= {"direct", "one_shot"}
    assert all(c.valid == (c.nested_sums <= 2) for c in candidates.values())
    assert candidates["ring"].reason == "rounds 16-bit sums 7 times: error grows; ask for it by name"


def test_candidates_are_sorted_by_price_and_ties_by_the_list() -> None:
    _, candidates, _ = choose(8, MIB)
    seconds = [c.seconds for c in candidates.values()]
    assert seconds == sorted(seconds)
    # ring and direct are the same messages when there are two ranks
    tied = list(choose(2, MIB)[1])
    assert tied.index("direct") < tied.index("ring")


def test_a_tolerance_makes_neighbours_equal_and_the_list_decides() -> None:
    # two ranks: within a tenth all that is unmeasured is the same, and direct stands first
    def rank(comm: Communicator) -> list[str]:
        return [comm.choose(nbytes) for nbytes in (1 << 16, 4 * MIB, 25 * MIB)]

    assert run_ranks(2, rank, transport="tcp")[0] == ["one_shot", "direct", "direct"]
    assert run_ranks(4, rank, transport="tcp")[0][0] == "direct"


def test_the_same_question_has_the_same_answer() -> None:
    assert len({choose(16, 3 * MIB, gamma=1e-10)[2] for _ in range(5)}) == 1


def test_the_explanation_has_a_line_for_every_candidate_and_marks_the_winner() -> None:
    winner, candidates, table = choose(8, MIB)
    lines = table.splitlines()
    assert lines[0] == f"chosen: {winner}" and len(lines) == 2 + len(candidates)
    assert [line.split()[1] for line in lines if line.startswith("*")] == [winner]
    assert f"2 x 20.0 us latency + 1.75 x {MIB * BETA * 1e6:.1f} us for the bytes" in table
    assert (
        len({line.index(word) for line, word in ((lines[1], "why"), (lines[2], candidates[winner].reason))})
        == 1
    )


def test_every_collective_can_be_chosen_for() -> None:
    for collective in ("all_reduce", "reduce_scatter", "all_gather", "broadcast", "all_to_all", "barrier"):
        for size in (1, 2, 9):
            winner, candidates, _ = native.select(collective, size, MIB)
            assert winner == candidates[0].algorithm
            if size == 1:
                assert candidates[0].seconds == 0


def test_a_choice_is_quick() -> None:
    start = time.monotonic()
    for size in (8, 64, 1000):
        choose(size, 256 * MIB)
    assert time.monotonic() - start < 3  # 0.1 s on an idle core; a machine full of tests is slower


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (("send", 2, 10), "no algorithm supports send"),
        (("all_reduce", 0, 10), "at least one rank"),
        (("sum", 2, 10), "unknown collective"),
        (("all_reduce", 2, 10, 1.0, False, -1.0), "at least 0"),
        (("all_reduce", 2, 10, 1.0, False, 0.0, 0), "segment_bytes is 0"),
    ],
)
def test_bad_questions_are_told_what_is_wrong(call: tuple[Any, ...], says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        native.select(*call)
