"""Stores and the rendezvous over them: what is stale, half-written, absent or hostile does no harm."""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradwire
from gradwire.store import FileStore, Store, TorchStore
from gradwire.tcp_store import TcpStore


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def file_stores(folder: Path) -> list[Store]:
    return [FileStore(folder / "store") for _ in range(2)]


def tcp_stores(folder: Path) -> list[Store]:
    port = free_port()
    return [TcpStore("127.0.0.1", port, serve, timeout=10) for serve in (True, False)]


def torch_stores(folder: Path) -> list[Store]:
    dist = pytest.importorskip("torch.distributed")
    return [TorchStore(dist.PrefixStore("p", dist.HashStore()))] * 2


@pytest.fixture(params=[file_stores, tcp_stores, torch_stores], ids=["file", "tcp", "torch"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[Store]]:
    made = request.param(tmp_path)
    yield made
    for store in reversed(made):
        store.close()


def on_ranks(n: int, call: Callable[[int], Any], timeout: float = 30) -> list[Any]:
    """Runs call(rank) on n threads; results and exceptions alike are returned."""
    results: list[Any] = [None] * n

    def run(rank: int) -> None:
        try:
            results[rank] = call(rank)
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(r,), daemon=True) for r in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout)
        assert not thread.is_alive(), "a rank hangs in its rendezvous"
    return results


def sum_at(store: Any, size: int, rank: int, **settings: Any) -> float:
    with gradwire.init(rank=rank, size=size, store=store, **{"timeout": 20, **settings}) as comm:
        total = float(comm.all_reduce(np.float32([rank + 1]))[0])
        comm.barrier()
    return total


# -- every store ---------------------------------------------------------------------------------------------
def test_what_one_sets_the_other_gets(stores: list[Store]) -> None:
    a, b = stores
    assert b.peek("k/1") is None
    for value in (b"", b"\0\xff" * 1000, b"again"):
        a.set("k/1", value)
        assert b.peek("k/1") == value
    a.remove("k/1")
    a.remove("never there")
    assert b.peek("k/1") is None


def test_get_waits_for_the_value_and_gives_up_in_time(stores: list[Store]) -> None:
    a, b = stores
    timer = threading.Timer(0.05, a.set, ("late", b"here"))
    timer.start()
    assert b.get("late", timeout=10) == b"here"
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="never"):
        b.get("never", timeout=0.05)
    assert time.monotonic() - start < 2


def test_ranks_meet_split_and_meet_again_at_it(stores: list[Store]) -> None:
    def rank(r: int) -> tuple[float, int]:
        with gradwire.init(rank=r, size=2, store=stores[r], timeout=20) as comm:
            group = comm.split(color=3)
            assert group is not None
            comm.barrier()
            comm.reconfigure(rank=1 - r, size=2)
            total = float(comm.all_reduce(np.float32([1]))[0])
            comm.barrier()
            group.close()
            return total, comm.epoch

    assert on_ranks(2, rank) == [(2.0, 1)] * 2


def test_nothing_is_left_in_the_store_once_all_have_met(tmp_path: Path) -> None:
    assert on_ranks(3, lambda r: sum_at(f"file://{tmp_path}/s", 3, r)) == [6.0] * 3
    assert not (tmp_path / "s").exists() or not any((tmp_path / "s").iterdir())


# -- rendezvous ----------------------------------------------------------------------------------------------
def test_keys_of_an_earlier_run_that_died_are_not_believed(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "s")
    scope = "gradwire/e0"
    for rank in range(1, 3):
        store.set(f"{scope}/hello/{rank}", random.randbytes(16))
    store.set(f"{scope}/secret", random.randbytes(32 + 2 * 16))
    for rank in range(3):
        store.set(f"{scope}/at/0123456789abcdef/{rank}", b"10.0.0.1:1")
    # In the order most likely to be fooled: rank 0 first, which sees only old hellos, then the others.
    results = on_ranks(3, lambda r: (time.sleep(0.15 * r), sum_at(f"file://{tmp_path}/s", 3, r))[1])
    assert results == [6.0] * 3


def test_one_store_serves_one_communicator_after_another(tmp_path: Path) -> None:
    store = f"file://{tmp_path}/s"

    def rank(r: int) -> list[float]:
        return [sum_at(store, 2, r) for _ in range(5)]

    assert on_ranks(2, rank) == [[3.0] * 5] * 2


def test_missing_ranks_are_named(tmp_path: Path) -> None:
    store = f"file://{tmp_path}/s"
    start = time.monotonic()
    results = on_ranks(2, lambda r: sum_at(store, 4, r, timeout=0.5))
    assert time.monotonic() - start < 5
    for error in results:
        assert isinstance(error, gradwire.RendezvousError)
        assert error.rank == 2 and "2, 3" in str(error) and "same store" in str(error)


def test_an_absent_rank_0_is_named(tmp_path: Path) -> None:
    with pytest.raises(gradwire.RendezvousError) as caught:
        sum_at(f"file://{tmp_path}/s", 2, 1, timeout=0.3)
    assert caught.value.rank == 0


@pytest.mark.parametrize("transport", ["shm", "tcp"])
def test_ranks_meet_over_every_transport(transport: str, tmp_path: Path) -> None:
    url = f"tcp://127.0.0.1:{free_port()}"
    assert on_ranks(4, lambda r: sum_at(url, 4, r, transport=transport)) == [10.0] * 4


def test_a_size_given_wrongly_on_one_rank_is_an_error_on_all(tmp_path: Path) -> None:
    store = f"file://{tmp_path}/s"
    for error in on_ranks(2, lambda r: sum_at(store, 2 + r, r, timeout=0.5)):
        assert isinstance(error, gradwire.RendezvousError)


# -- files ---------------------------------------------------------------------------------------------------
def test_a_half_written_file_looks_absent(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "s")
    store.set("key", b"0123456789" * 10)
    file = next(p for p in (tmp_path / "s").iterdir())
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        assert store.peek("key") is None
    file.write_bytes(whole)
    assert store.peek("key") == b"0123456789" * 10


def test_a_file_stores_secret_is_for_its_user_only(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "s")
    store.set("a/b", b"secret")
    assert (tmp_path / "s").stat().st_mode & 0o077 == 0
    assert all(p.stat().st_mode & 0o077 == 0 for p in (tmp_path / "s").iterdir())
    store.remove("a/b")
    store.close()
    assert not (tmp_path / "s").exists()


def test_an_existing_file_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "init"
    target.write_text("somebody's")
    assert on_ranks(2, lambda r: sum_at(f"file://{target}", 2, r)) == [3.0] * 2
    assert target.read_text() == "somebody's"


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_made_is_said() -> None:
    with pytest.raises(gradwire.RendezvousError, match="cannot make"):
        FileStore("/proc/gradwire/store")


# -- the TCP server ------------------------------------------------------------------------------------------
GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "noise": bytes(random.Random(1).randbytes(4096)),
    "an unknown request": b"GWSTORE1" + struct.pack("<BHI", 9, 1, 0) + b"k",
    "a huge key": b"GWSTORE1" + struct.pack("<BHI", 2, 65535, 0),
    "a huge value": b"GWSTORE1" + struct.pack("<BHI", 1, 1, 0xFFFFFFFF) + b"k",
    "a value with a question": b"GWSTORE1" + struct.pack("<BHI", 2, 1, 100) + b"k" + b"v" * 100,
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_is_refused_and_changes_nothing(kind: str) -> None:
    port = free_port()
    store = TcpStore("127.0.0.1", port, serve=True, timeout=10)
    store.set("k", b"kept")
    with socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
        stranger.sendall(GARBAGE[kind])
        assert stranger.recv(1) == b"", "the server must hang up"
    assert store.peek("k") == b"kept"
    store.close()


def test_a_silent_or_slow_stranger_does_not_hold_up_the_others() -> None:
    port = free_port()
    store = TcpStore("127.0.0.1", port, serve=True, timeout=10)
    strangers = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(50)]
    for i, stranger in enumerate(strangers):
        stranger.sendall(b"GWSTORE1"[: i % 9])
    start = time.monotonic()
    for i in range(50):
        store.set(f"k{i}", b"v" * 1000)
        assert store.peek(f"k{i}") == b"v" * 1000
    assert time.monotonic() - start < 5
    for stranger in strangers:
        stranger.close()
    store.close()


def test_values_up_to_the_limit_pass_and_larger_ones_are_refused() -> None:
    store = TcpStore("127.0.0.1", free_port(), serve=True, timeout=10)
    value = random.randbytes(1 << 20)
    store.set("big", value)
    assert store.peek("big") == value
    with pytest.raises(gradwire.ArgumentError, match="limits"):
        store.set("bigger", value + b"x")
    assert store.peek("big") == value
    store.close()


def test_a_store_that_is_not_there_or_has_gone_is_said_in_time() -> None:
    port = free_port()
    start = time.monotonic()
    with pytest.raises(gradwire.RendezvousError, match="rank 0"):
        TcpStore("127.0.0.1", port, serve=False, timeout=0.2)
    assert time.monotonic() - start < 3
    server = TcpStore("127.0.0.1", port, serve=True, timeout=10)
    client = TcpStore("127.0.0.1", port, serve=False, timeout=10)
    server.close()
    with pytest.raises(gradwire.RendezvousError, match="rank 0"):
        client.peek("k")
    client.close()


def test_a_port_that_is_taken_is_said_with_the_remedy() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(gradwire.RendezvousError, match="GRADWIRE_STORE"),
    ):
        TcpStore("127.0.0.1", taken.getsockname()[1], serve=True, timeout=1)


def test_the_server_ends_with_the_communicator() -> None:
    url = f"tcp://127.0.0.1:{free_port()}"
    assert on_ranks(2, lambda r: sum_at(url, 2, r)) == [3.0] * 2
    assert not [t for t in threading.enumerate() if t.name == "gradwire-store"]
    assert on_ranks(2, lambda r: sum_at(url, 2, r)) == [3.0] * 2  # the port is free again
