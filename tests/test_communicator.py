"""Life of a communicator: many operations in flight, groups, generations, point to point, threads."""

from __future__ import annotations

import gc
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradwire
from gradwire import Communicator, _native
from gradwire.testing import Hub, run_ranks


def test_any_number_of_operations_may_be_in_flight() -> None:
    def rank(comm: Communicator) -> list[float]:
        arrays = [np.full(n, comm.rank + 1, np.float32) for n in range(1, 301)]
        works = [comm.all_reduce(x, async_op=True) for x in arrays]
        assert works[7].result is arrays[7]
        return [float(w.wait(timeout=20)[-1]) for w in reversed(works)]

    assert run_ranks(3, rank) == [[6.0] * 300] * 3


def test_arrays_live_until_their_operation_is_done_even_if_everything_is_dropped() -> None:
    hub = Hub()

    def rank(comm: Communicator) -> int:
        comm.barrier()
        if comm.rank == 0:
            hub.delay(0, 1, 0.05)
            hub.delay(1, 0, 0.05)
        comm.barrier()
        x = np.ones(50_000, np.float32)
        before = sys.getrefcount(x)
        for _ in range(8):
            comm.all_reduce(np.ones(50_000, np.float32), async_op=True)  # dropped: array and Work
        comm.all_reduce(x, async_op=True)
        held = sys.getrefcount(x) - before
        gc.collect()
        trash = [np.full(50_000, 7, np.float32) for _ in range(16)]  # would land in memory freed too early
        comm.barrier()
        assert float(x[0]) == 2.0 and all(float(t.sum()) == 350_000 for t in trash)
        return held

    assert run_ranks(2, rank, hub) == [1, 1]


def test_finished_works_are_forgotten() -> None:
    def rank(comm: Communicator) -> int:
        for _ in range(500):
            comm.all_reduce(np.ones(8, np.float32), async_op=True).wait()
        return len(comm._in_flight)

    assert max(run_ranks(2, rank)) <= 1


def test_synchronous_and_asynchronous_calls_mix_in_order() -> None:
    def rank(comm: Communicator) -> float:
        x = np.ones(1000, np.float32)
        for _ in range(5):
            work = comm.all_reduce(x, async_op=True)
            comm.all_reduce(x)  # the same array: runs after the one before
            assert work.done()
        return float(x[0])

    assert run_ranks(2, rank) == [2.0**10] * 2


def test_wait_with_a_timeout_gives_up_and_the_operation_goes_on() -> None:
    gate = threading.Event()

    def rank(comm: Communicator) -> Any:
        x = np.ones(4, np.float32)
        if comm.rank == 1:
            gate.wait(10)
            return comm.all_reduce(x)
        work = comm.all_reduce(x, async_op=True)
        assert not work.done()
        start = time.monotonic()
        with pytest.raises(gradwire.Timeout):
            work.wait(timeout=timedelta(milliseconds=50))
        assert time.monotonic() - start < 5
        gate.set()
        return work.wait()

    for result in run_ranks(2, rank):
        np.testing.assert_array_equal(result, [2, 2, 2, 2])


def test_work_tells_when_it_ran() -> None:
    def rank(comm: Communicator) -> None:
        before = time.monotonic()
        work = comm.all_reduce(np.ones(1000, np.float32), async_op=True)
        work.wait()
        submitted, started, finished = work.seconds()
        assert before <= submitted <= started <= finished <= time.monotonic()

    run_ranks(2, rank)


def test_two_communicators_in_one_process_do_not_disturb_each_other() -> None:
    hub = Hub()

    def rank(first: Communicator) -> tuple[float, float]:
        second = gradwire.init(rank=1 - first.rank, size=2, store=hub, timeout=20)
        x, y = np.full(5000, 1.0 + first.rank, np.float32), np.full(5000, 10.0 + second.rank, np.float32)
        a = first.all_reduce(x, async_op=True)
        b = second.all_reduce(y, op="max", async_op=True)
        result = float(b.wait()[0]), float(a.wait()[0])
        second.close()
        return result

    assert run_ranks(2, rank) == [(11.0, 3.0)] * 2


@pytest.mark.parametrize("transport", ["inproc", "shm", "tcp"])
def test_split_makes_independent_groups(transport: str) -> None:
    def rank(comm: Communicator) -> Any:
        group = comm.split(color=comm.rank % 2, key=-comm.rank)
        assert group is not None
        members = group.all_gather(np.int64([comm.rank])).ravel().tolist()
        pair = group.split(color=0 if group.rank == 0 else None)
        assert (pair is None) == (group.rank != 0)
        total = comm.all_reduce(np.int32([1]))
        group.close()
        return group.rank, members, int(total[0])

    # key = -rank: the highest rank comes first
    assert run_ranks(5, rank, transport) == [
        (2, [4, 2, 0], 5), (1, [3, 1], 5), (1, [4, 2, 0], 5), (0, [3, 1], 5), (0, [4, 2, 0], 5)
    ]  # fmt: skip


def test_split_twice_with_the_same_colors_gives_two_groups() -> None:
    def rank(comm: Communicator) -> list[int]:
        groups = [comm.split(color=7) for _ in range(3)]
        works = [g.all_reduce(np.int32([i]), async_op=True) for i, g in enumerate(groups) if g is not None]
        return [int(w.wait()[0]) for w in reversed(works)]

    assert run_ranks(2, rank) == [[4, 2, 0]] * 2


@pytest.mark.parametrize("transport", ["inproc", "shm", "tcp"])
def test_messages_arrive_in_order_with_their_tag(transport: str) -> None:
    def rank(comm: Communicator) -> list[int]:
        if comm.rank == 0:
            for n in range(20):
                comm.send(np.full(n, n, np.int32), dst=1, tag=n)
            return []
        return [int(comm.recv(np.zeros(n, np.int32), src=0, tag=n).sum()) for n in range(20)]

    assert run_ranks(2, rank, transport)[1] == [n * n for n in range(20)]


@pytest.mark.parametrize("transport", ["inproc", "shm", "tcp"])
def test_large_arrays_cross_both_ways_at_once(transport: str) -> None:
    count = 1_500_000  # more than any buffer on the way

    def rank(comm: Communicator) -> None:
        other = 1 - comm.rank
        mine = np.arange(count, dtype=np.float32) + comm.rank
        theirs = np.zeros(count, np.float32)
        works = [comm.send(mine, other, async_op=True), comm.recv(theirs, other, async_op=True)]
        for work in works:
            work.wait(timeout=30)
        np.testing.assert_array_equal(theirs, np.arange(count, dtype=np.float32) + other)

    run_ranks(2, rank, transport)


def test_point_to_point_runs_beside_collectives() -> None:
    def rank(comm: Communicator) -> float:
        x = np.zeros(1000, np.float32)
        if comm.rank == 1:
            pending = comm.recv(x, src=0, async_op=True)
            comm.all_reduce(np.ones(10, np.float32))  # must not wait for the receive before it
            pending.wait()
        else:
            comm.all_reduce(np.ones(10, np.float32))
            if comm.rank == 0:
                comm.send(np.full(1000, 3, np.float32), dst=1)
        return float(x.sum())

    assert run_ranks(3, rank) == [0.0, 3000.0, 0.0]


def test_many_threads_may_wait_for_one_rank() -> None:
    def rank(comm: Communicator) -> list[float]:
        works = [comm.all_reduce(np.full(2000, i, np.float32), async_op=True) for i in range(16)]
        seen: list[float] = [-1.0] * 16

        def wait(i: int) -> None:
            seen[i] = float(works[i].wait(timeout=20)[0])

        threads = [threading.Thread(target=wait, args=(i,)) for i in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return seen

    assert run_ranks(2, rank) == [[2.0 * i for i in range(16)]] * 2


def test_stats_count_what_the_frames_add_up_to() -> None:
    count = 64 * 1024

    def rank(comm: Communicator) -> tuple[int, int]:
        before = comm.stats()
        comm.all_reduce(np.ones(count, np.float32), codec="int8", algorithm="direct")
        after = comm.stats()
        assert after["operations"] - before["operations"] == 1
        return after["bytes_sent"] - before["bytes_sent"], after["bytes_received"] - before["bytes_received"]

    payload = 2 * gradwire.codec("int8").encoded_bytes(
        count // 2
    )  # one half to the peer, then the other's result
    for sent, received in run_ranks(2, rank):
        assert sent == received
        assert payload < sent < 1.05 * payload


def test_socket_bytes_match_the_reported_bytes() -> None:
    def rank(comm: Communicator) -> None:
        for _ in range(4):
            comm.all_reduce(np.ones(500_000, np.float32))
        comm.barrier()
        stats = comm.stats()
        assert stats["socket_bytes_sent"] == pytest.approx(stats["bytes_sent"], rel=0.05)

    run_ranks(2, rank, "tcp")


def test_peers_and_explain_describe_the_group() -> None:
    def rank(comm: Communicator) -> tuple[list[str], str, str]:
        kinds = [kind for kind, _ in comm.peers()]
        return (
            kinds,
            comm.explain(np.ones(1000, np.float64), "int8" if comm.size > 9 else None),
            comm.explain(4000),
        )

    kinds, table, _ = run_ranks(3, rank, "tcp")[1]
    assert kinds == ["tcp", "self", "tcp"]
    assert "direct" in table and "ring" in table


def test_a_trace_is_a_file_that_perfetto_reads(tmp_path: Any) -> None:
    import json

    def rank(comm: Communicator) -> None:
        with comm.trace(tmp_path / "t{rank}.json"):
            works = [
                comm.all_reduce(np.ones(50_000, np.float32), codec="int8", async_op=True) for _ in range(3)
            ]
            for work in works:
                work.wait()

    run_ranks(2, rank)
    for r in range(2):
        events = json.loads((tmp_path / f"t{r}.json").read_text())["traceEvents"]
        operations = [e for e in events if e.get("cat") == "operation"]
        assert {e["id"] for e in operations if e["ph"] == "b"} == {
            e["id"] for e in operations if e["ph"] == "e"
        }
        assert len(operations) == 6
        steps = [e for e in events if e.get("cat") == "step"]
        assert steps and all(e["dur"] >= 0 and e["pid"] == r for e in steps)


def test_a_program_that_ends_without_close_ends(tmp_path: Any) -> None:
    script = tmp_path / "careless.py"
    script.write_text(
        "import numpy as np, gradwire\n"
        "comm = gradwire.init()\n"
        "comm.all_reduce(np.ones(10, np.float32))\n"
        "work = comm.all_reduce(np.ones(100000, np.float32), async_op=True)\n"
        "work.wait()\n"
    )
    results = gradwire.testing.run_processes(2, script, timeout=60)
    assert [r.stderr for r in results] == ["", ""]


@pytest.mark.parametrize("codec", [None, "int8"])
def test_results_do_not_depend_on_the_number_of_sockets(codec: str | None, tmp_path: Path) -> None:
    def bits(sockets: int) -> bytes:
        def rank(r: int) -> bytes:
            store = f"file://{tmp_path}/{codec}{sockets}"
            with gradwire.init(rank=r, size=2, store=store, transport="tcp", sockets=sockets) as comm:
                x = np.random.default_rng(r).standard_normal(300_001).astype(np.float32)
                return comm.all_reduce(x, algorithm="ring", codec=codec).tobytes()

        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(rank, range(2))
        assert first == second
        return first

    assert bits(0) == bits(1) == bits(3)


def test_gpu_peers_are_off_on_all_ranks_where_one_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADWIRE_GPU_PEERS", "on")
    if _native.gpu.status()["usable"]:
        pytest.skip("there is a GPU")

    def rank(comm: gradwire.Communicator) -> str:
        assert comm.all_reduce(np.float32([1])) == 2
        return comm.gpu_peers

    found = set(run_ranks(2, rank))
    assert len(found) == 1 and found.pop().startswith("off: rank 0: ")
    monkeypatch.setenv("GRADWIRE_GPU_PEERS", "yes")
    with pytest.raises(gradwire.ArgumentError, match="GRADWIRE_GPU_PEERS: expected on or off"):
        run_ranks(2, rank)
