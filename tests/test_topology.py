"""Topologies: what is slow, which ring avoids it, how every rank comes to hold the same; and what goes
by them."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradwire
from gradwire import Communicator, Topology
from gradwire.errors import ArgumentError, MismatchError
from gradwire.probe import tournament
from gradwire.testing import run_ranks
from gradwire.trials import Trial


def network(
    size: int, slow: dict[tuple[int, int], float] | None = None, host: list[int] | None = None
) -> Topology:
    """A gigabit between any two ranks, times `slow` where that says so."""
    times = slow or {}
    factor = [[times.get((min(a, b), max(a, b)), 1.0) for b in range(size)] for a in range(size)]
    host = host or list(range(size))
    table = [
        [[t * factor[a][b] * (a != b) for b in range(size)] for a in range(size)] for t in (50e-6, 5e-6, 8e-9)
    ]
    return Topology([f"h{h}" for h in host], host, list(range(size)), 8, *table)


def test_a_slow_link_is_named_and_the_ring_avoids_it() -> None:
    t = network(4, {(0, 1): 8.0})
    assert [(a, b) for a, b, _ in t.slow_links()] == [(0, 1)] and not any(t.slow())
    order = t.order()
    assert (0, 1) not in {(min(p), max(p)) for p in zip(order, [*order[1:], order[0]])}
    assert "slow link: ranks 0 and 1 (h0 - h1): 8.0x the median" in t.report()


def test_a_large_ring_avoids_slow_links_too() -> None:
    t = network(12, {(a, a + 1): 9.0 for a in range(0, 11, 2)})
    order = t.order()
    assert sorted(order) == list(range(12))
    assert max(t.seconds(a, b) for a, b in zip(order, [*order[1:], order[0]])) == t.seconds(0, 2)


def test_a_rank_whose_every_link_is_slow_is_slow_itself() -> None:
    t = network(5, {(min(2, p), max(2, p)): 6.0 for p in range(5) if p != 2})
    assert t.slow() == [False, False, True, False, False] and t.slow_links() == []
    assert t.schedule_topology().slow == t.slow()


def test_equal_links_change_nothing() -> None:
    t = network(6)
    assert t.order() == list(range(6)) and t.report() == "no link stands out"


@pytest.mark.parametrize("size", [2, 3, 5, 8, 9])
def test_in_a_tournament_everybody_meets_everybody_once(size: int) -> None:
    rounds = list(tournament(size))
    assert sorted(itertools.chain(*rounds)) == list(itertools.combinations(range(size), 2))
    for pairs in rounds:
        assert len(set(itertools.chain(*pairs))) == 2 * len(pairs)


def test_a_file_comes_back_as_it_was(tmp_path: Path) -> None:
    t = network(3, {(0, 2): 3.0})
    t.trials = [Trial("", "ring", 1024, 1e-6, 2e-6)]
    t.save(tmp_path / "deep" / "t.json")
    assert Topology.from_json((tmp_path / "deep" / "t.json").read_bytes()) == t


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 99}', '{"version": 2, "codecs": {}}'])
def test_a_file_that_is_no_topology_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="is not a topology file"):
        Topology.from_json(text)


def test_every_rank_holds_what_rank_0_read(tmp_path: Path) -> None:
    network(2).save(tmp_path / "t.json")

    def rank(comm: Communicator) -> Any:
        path = tmp_path / ("t.json" if comm.rank == 0 else "missing.json")
        before = comm.explain(1 << 20)
        comm.use(str(path))
        return before, comm.explain(1 << 20)

    (before, a), (_, b) = run_ranks(2, rank)
    assert a == b != before


def test_ranks_that_hold_different_topologies_are_told() -> None:
    def rank(comm: Communicator) -> None:
        network(2, host=[0, 0] if comm.rank else [0, 1]).apply(comm._native)
        comm.all_reduce(np.ones(8, np.float32), algorithm="direct")

    with pytest.raises(MismatchError):
        run_ranks(2, rank)


def test_a_topology_of_other_ranks_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"no-file.*gradwire probe"):
        gradwire.init(rank=0, size=1, topology="no-file.json")
    with gradwire.init(rank=0, size=1) as comm, pytest.raises(ArgumentError, match="probe"):
        comm.use(network(2))


# -- trying whole collectives ----------------------------------------------------------------------------
def test_a_prediction_is_the_model_times_what_trials_showed() -> None:
    t = network(3)
    t.trials = [
        Trial("", "ring", 1 << 10, 3e-6, 1e-6),
        Trial("", "ring", 1 << 14, 12e-6, 1e-6),
        Trial("int8(block=128)", "direct", 1 << 12, 5e-6, 1e-6),
    ]

    def rank(comm: Communicator) -> list[dict[str, float]]:
        sizes = [(1 << k, codec) for k in (8, 10, 12, 14, 20) for codec in (None, "int8")]
        comm.use(network(3))
        model = [comm.candidates(*size) for size in sizes]
        comm.use(t)
        return [{a: s / m[a] for a, s in comm.candidates(*size).items()} for size, m in zip(sizes, model)]

    factors = run_ranks(3, rank)[0]
    plain, int8 = factors[::2], factors[1::2]
    # nearest outside, a line between logarithms inside; not tried with a codec: as without
    assert [f["ring"] for f in plain] == pytest.approx([3, 3, 6, 12, 12])
    assert [f["ring"] for f in int8] == pytest.approx([3, 3, 6, 12, 12])
    assert [f["direct"] for f in plain] == pytest.approx([1] * 5)
    assert [f["direct"] for f in int8] == pytest.approx([5] * 5)


def test_auto_takes_what_was_fastest_in_trials() -> None:
    t = network(4)
    t.trials = [
        Trial("", a["name"], 1 << 20, 1e-3 if a["name"] == "double_tree" else 2e-3, 1e-3)
        for a in gradwire._native.algorithms()
    ]

    def rank(comm: Communicator) -> tuple[str, str]:
        without = comm.choose(1 << 20)
        comm.use(t)
        return without, comm.choose(1 << 20)

    without, tried = run_ranks(4, rank)[0]
    assert without != "double_tree" and tried == "double_tree"


def test_probing_tries_every_algorithm_and_finds_the_same_on_every_rank(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gradwire.trials, "SIZES", (1 << 10, 1 << 14))
    monkeypatch.setattr(gradwire.trials, "CODECS", (None, "int8"))
    monkeypatch.setattr(gradwire.trials, "_ROUNDS", 1)
    steps: list[tuple[int, int]] = []

    def rank(comm: Communicator) -> Topology:
        return comm.probe(lambda done, of: steps.append((done, of)) if comm.rank == 0 else None)

    found = run_ranks(3, rank)
    assert found[0] == found[1] == found[2]
    tried = {(t.codec, t.algorithm) for t in found[0].trials}
    assert {a for codec, a in tried if codec == ""} == {a["name"] for a in gradwire._native.algorithms()}
    assert {a for codec, a in tried if codec.startswith("int8")} == {
        "direct",
        "one_shot",
        "double_tree",
    }  # of three ranks: the others encode more often, or not at all
    assert all(t.seconds > 0 and t.modelled > 0 for t in found[0].trials)
    assert [done for done, _ in steps] == list(range(1, steps[-1][1] + 1))


@pytest.mark.parametrize("trial", [("", "ring", 0, 1e-6, 1e-6), ("", "ring", 8, -1.0, 1e-6)])
def test_a_trial_that_cannot_be_is_refused(trial: tuple[Any, ...]) -> None:
    t = network(2)
    t.trials = [Trial(*trial)]
    with pytest.raises(ArgumentError, match="positive"):
        Topology.from_json(t.to_json())


def test_the_cache_is_filled_once_and_read_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(gradwire.trials, "SIZES", (1 << 10,))
    monkeypatch.setattr(gradwire.trials, "CODECS", (None,))
    monkeypatch.setattr(gradwire.trials, "_ROUNDS", 1)

    def rank(comm: Communicator) -> tuple[str, str]:
        return comm.explain(1 << 20), str(comm.topology_cache())

    first = run_ranks(2, rank, topology="auto")
    written = Path(first[0][1]).read_text()
    monkeypatch.setattr(gradwire.prices, "probe", None)  # a second probe would fail
    again = run_ranks(2, rank, topology="auto")
    assert again == first and first[0][0] == first[1][0] and '"trials": [[' in written
    # the same file by the variable, read by rank 0 alone; the table shows whose prices these are
    monkeypatch.setenv("GRADWIRE_TOPOLOGY", first[0][1])
    assert run_ranks(2, rank) == first
    monkeypatch.delenv("GRADWIRE_TOPOLOGY")
    assert run_ranks(2, rank) != first


# -- the command, and what init() makes of its file ------------------------------------------------------
def test_the_probe_command_writes_a_file_that_init_reads(tmp_path: Path) -> None:
    file = tmp_path / "topology.json"
    words = ["probe", "--ranks", "2", "--links-only", "--no-progress", "-o", str(file)]
    command = [sys.executable, "-m", "gradwire", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "no link stands out" in done.stdout and str(file) in done.stdout
    found = run_ranks(2, lambda comm: (comm.measured, comm.explain(1 << 20)), topology=str(file))
    plain = run_ranks(2, lambda comm: (comm.measured, comm.explain(1 << 20)))
    assert found[0] == found[1] and found[0][0] and not plain[0][0] and found[0][1] != plain[0][1]


def test_probing_a_lab_names_its_slow_link(make_lab: Any, tmp_path: Path) -> None:
    lab = make_lab(4, "500mbit")
    lab.limit_link(1, 2, "50mbit")
    words = [sys.executable, "-m", "gradwire", "probe", "--links-only", "--no-progress", "--size", "4"]
    words += ["--store", (tmp_path / "store").as_uri(), "-o", str(tmp_path / "topology.json")]
    env = {**os.environ, "GRADWIRE_IFNAME": "eth0"}
    ranks = [
        lab.start(rank, [*words, "--rank", str(rank)], env=env, stdout=subprocess.PIPE) for rank in range(4)
    ]
    said = [rank.communicate(timeout=60)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * 4
    assert "slow link: ranks 1 and 2 (" in said[0] and said[0].count("slow") == 1, said[0]
    order = Topology.from_json((tmp_path / "topology.json").read_bytes()).order()
    assert (1, 2) not in {(min(p), max(p)) for p in zip(order, [*order[1:], order[0]])}


# -- choosing a codec ------------------------------------------------------------------------------------
def test_codec_auto_encodes_on_slow_links_only() -> None:
    def sent(comm: Communicator, t: Topology) -> int:
        comm.use(t)
        x = np.ones(200_000, np.float32)
        before = comm.stats()["bytes_sent"]
        comm.all_reduce(x, codec="auto")
        comm.step()
        return comm.stats()["bytes_sent"] - before

    slow = network(2)
    fast = network(2, host=[0, 0])
    fast.byte_s = [[0.0, 1e-11], [1e-11, 0.0]]
    assert run_ranks(2, lambda comm: sent(comm, slow))[0] < 300_000
    assert run_ranks(2, lambda comm: sent(comm, fast))[0] >= 800_000


def test_codec_auto_pays_what_is_owed_where_it_takes_no_codec() -> None:
    def rank(comm: Communicator) -> tuple[Any, Any]:
        x, residual = np.ones((3, 2), np.float32), np.full(6, 0.5, np.float32)
        return comm.all_reduce(x, codec="auto", residual=residual), residual

    for got, residual in run_ranks(2, rank):
        assert (got == 3).all() and not residual.any()


def test_what_16_bits_cannot_hold_stays_owed() -> None:
    def rank(comm: Communicator) -> tuple[Any, Any]:
        x, residual = np.full((3, 2), 1024, np.float16), np.full(6, 0.25, np.float32)
        return comm.all_reduce(x, codec="auto", residual=residual), residual

    for got, residual in run_ranks(2, rank):
        assert (got == 2048).all() and (residual == 0.25).all()


def test_codec_auto_keeps_its_choice_until_the_step_is_over() -> None:
    slow, fast = network(2), network(2)
    fast.byte_s = [[0.0, 1e-11], [1e-11, 0.0]]

    def rank(comm: Communicator) -> list[bool]:
        x = np.ones(200_000, np.float32)
        comm.use(slow)
        took = [comm.auto_codec(x) is None]
        comm.use(fast)
        took.append(comm.auto_codec(x) is None)
        comm.step()
        took.append(comm.auto_codec(x) is None)
        comm.step()
        return [*took, comm.auto_codec(x) is None]

    assert run_ranks(2, rank) == [[False, False, True, True]] * 2


def test_codec_auto_does_not_look_at_arrays_too_small_to_be_coded() -> None:
    def rank(comm: Communicator) -> list[Any]:
        comm.use(network(2))
        small, numbers = np.ones(3, np.float32), np.ones(200_000, np.int32)
        coded = comm.auto_codec(np.ones(200_000, np.float32)) is not None
        sums = [comm.all_reduce(numbers, codec="auto")[-1]]
        comm.auto_codec = None  # type: ignore[method-assign, assignment]
        return [coded, *sums, comm.all_reduce(small, codec="auto")[-1]]

    assert run_ranks(2, rank) == [[True, 2, 2]] * 2


# -- one order of sums for every size --------------------------------------------------------------------
@pytest.mark.parametrize("size", [2, 3, 5])
def test_size_invariant_sums_of_pieces_are_those_of_the_whole(size: int) -> None:
    count = 20_011
    xs = [np.random.default_rng(r).standard_normal(count).astype(np.float32) for r in range(size)]

    def rank(comm: Communicator) -> bool:
        whole = comm.all_reduce(xs[comm.rank].copy())
        same = True
        for cut in (1, 37, 4096, 20_000):
            parts = [comm.all_reduce(part.copy()) for part in np.split(xs[comm.rank], [cut])]
            same = same and np.concatenate(parts).tobytes() == whole.tobytes()
        whole = comm.all_reduce(xs[comm.rank].copy(), codec="int8")
        parts = [comm.all_reduce(p.copy(), codec="int8") for p in np.split(xs[comm.rank], [128 * 50])]
        return same and np.concatenate(parts).tobytes() == whole.tobytes()

    assert all(run_ranks(size, rank, deterministic="size-invariant"))


def test_size_invariant_refuses_what_adds_in_another_order() -> None:
    def rank(comm: Communicator) -> None:
        comm.all_reduce(np.ones(8, np.float32), algorithm="ring")

    with pytest.raises(ArgumentError, match="size-invariant"):
        run_ranks(3, rank, deterministic="size-invariant")


# -- many arrays at once ---------------------------------------------------------------------------------
@pytest.mark.parametrize("codec", [None, "int8", "int4"])
def test_fused_arrays_have_the_bits_of_arrays_reduced_alone(codec: str | None) -> None:
    counts = [1, 0, 127, 128, 129, 5000, 3]

    def arrays(rank: int) -> list[Any]:
        rng = np.random.default_rng(rank)
        dtypes = ["float32", "float16", "float32", "int64", "float32", "float32", "float16"]
        return [(rng.standard_normal(n) * 9).astype(d) for n, d in zip(counts, dtypes)]

    algorithm = "one_shot" if codec else "direct"
    fusing = algorithm if codec else "auto"

    def rank(comm: Communicator) -> bool:
        alone = arrays(comm.rank)
        for x in alone:
            comm.all_reduce(x, codec=None if x.dtype == np.int64 else codec, algorithm=algorithm)
        fused, later = arrays(comm.rank), arrays(comm.rank)
        assert comm.all_reduce_many(fused, "sum", codec, fusing, bucket_bytes=4096) is fused
        work = comm.all_reduce_many(later, "sum", codec, fusing, async_op=True)
        assert work.wait() is later and work.done()
        return all(a.tobytes() == b.tobytes() == c.tobytes() for a, b, c in zip(alone, fused, later))

    assert all(run_ranks(3, rank))


def test_a_second_fused_call_makes_no_new_buckets() -> None:
    def rank(comm: Communicator) -> int:
        for _ in range(3):
            comm.all_reduce_many([np.ones(10, np.float32), np.ones(3, np.float32)])
        return sum(len(idle) for idle in comm._fused.values())

    assert run_ranks(2, rank) == [1, 1]
