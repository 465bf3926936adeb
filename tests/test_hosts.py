"""Ranks on hosts of their own (network namespaces): which addresses they take, and what silence means."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradwire
from gradwire import _native

MakeLab = Callable[..., Any]

RANK = """
import json, logging, sys, time
import numpy as np
import gradwire
ways = []
handler = logging.Handler(); handler.emit = lambda record: ways.append(record.getMessage())
logging.getLogger("gradwire").addHandler(handler); logging.getLogger("gradwire").setLevel(logging.INFO)
rank, size, store, settings = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
report = {"error": None, "culprit": None}
start = time.monotonic()
with gradwire.init(rank=rank, size=size, store=store, timeout=20, **settings) as comm:
    report["kinds"] = sorted(kind for kind, _ in comm.peers())
    print("ready", flush=True)
    try:
        for _ in range(int(sys.argv[5])):
            start = time.monotonic()
            x = comm.all_reduce(np.full(1000, rank + 1, np.float32), algorithm="ring")
            time.sleep(0.01)
        report["sum"] = float(x[-1])
    except gradwire.GradwireError as e:
        report.update(error=type(e).__name__, culprit=e.rank, text=str(e))
report["seconds"] = time.monotonic() - start
report["ways"] = ways
print(json.dumps(report), flush=True)
"""


class Job:
    """One rank on each host of a lab."""

    def __init__(self, lab: Any, store: str, calls: int = 1, **settings: object) -> None:
        words = [store, json.dumps(settings), str(calls)]
        self.ranks = [
            lab.start(r, [sys.executable, "-c", RANK, str(r), str(lab.hosts), *words], stdout=subprocess.PIPE)
            for r in range(lab.hosts)
        ]

    def wait_until_ready(self) -> None:
        for p in self.ranks:
            assert p.stdout is not None and p.stdout.readline() == "ready\n"

    def reports(self) -> list[dict[str, Any]]:
        try:
            return [json.loads(p.communicate(timeout=30)[0].splitlines()[-1]) for p in self.ranks]
        finally:
            self.end()

    def end(self) -> None:
        for p in self.ranks:
            p.kill()
            p.wait()


def inside(lab: Any, host: int, *words: str) -> None:
    subprocess.run(["ip", "-n", f"{lab.name}{host}", *words], check=True, capture_output=True)


def test_hosts_that_meet_through_a_file_take_the_interface_that_works(
    make_lab: MakeLab, tmp_path: Path
) -> None:
    lab = make_lab(3)
    for host in range(3):  # like docker0: the same address on every host, and nobody else behind it
        inside(lab, host, "link", "add", "a0", "type", "bridge")
        inside(lab, host, "addr", "add", "172.17.0.1/16", "dev", "a0")
        inside(lab, host, "link", "set", "a0", "up")
    for report in Job(lab, f"file://{tmp_path}/store").reports():
        assert report["sum"] == 6.0 and report["kinds"] == ["self", "tcp", "tcp"]
        assert len([w for w in report["ways"] if "10.77.0." in w]) == 2, report["ways"]


def test_hosts_with_ipv6_alone_meet(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = make_lab(2)
    for host in range(2):
        inside(lab, host, "addr", "del", f"{lab.address(host)}/24", "dev", "eth0")
    for report in Job(lab, f"file://{tmp_path}/store").reports():
        assert report["sum"] == 3.0
        assert any("fd77::" in way for way in report["ways"]), report["ways"]


def test_hosts_meet_at_an_ipv6_store(make_lab: MakeLab) -> None:
    lab = make_lab(2)
    for report in Job(lab, f"tcp://[{lab.address(0, 6)}]:29400").reports():
        assert report["sum"] == 3.0 and any("fd77::" in way for way in report["ways"])


def test_no_address_offered_to_peers_is_local_to_a_link_or_host() -> None:
    for address in _native.reachable_addresses():
        assert not address.startswith(("127.", "169.254.", "fe80:", "::1")) and "%" not in address


def test_a_cut_cable_is_a_lost_peer_long_before_the_timeout(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = make_lab(3)
    job = Job(lab, f"file://{tmp_path}/store", calls=100_000, heartbeat_s=1)
    try:
        job.wait_until_ready()
        time.sleep(0.2)
        lab.cut(2)
        for report in job.reports()[:2]:
            assert report["error"] == "PeerLost" and report["culprit"] == 2, report
            assert report["seconds"] < 5, report
    finally:
        job.end()


def test_a_stopped_rank_is_slow_and_not_lost(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = make_lab(2)
    job = Job(lab, f"file://{tmp_path}/store", calls=20, heartbeat_s=1)
    try:
        job.wait_until_ready()
        victim = pid_of(job.ranks[1].pid)
        os.kill(victim, signal.SIGSTOP)
        time.sleep(3.5)  # more than three heartbeats
        os.kill(victim, signal.SIGCONT)
        for report in job.reports():
            assert report["error"] is None and report["sum"] == 3.0, report
    finally:
        job.end()


def pid_of(pid: int) -> int:
    """`ip netns exec` and its shell replace themselves by the command; be sure of it."""
    assert "python" in Path(f"/proc/{pid}/cmdline").read_text()
    return pid


def test_an_idle_communicator_uses_hardly_any_cpu(tmp_path: Path) -> None:
    def rank(r: int) -> float:
        store = f"file://{tmp_path}/store"
        with gradwire.init(rank=r, size=2, store=store, transport="tcp", heartbeat_s=1) as comm:
            comm.all_reduce(np.ones(10, np.float32), async_op=True).wait()
            comm.barrier()
            before = time.process_time()
            time.sleep(1)
            used = time.process_time() - before
            comm.barrier()
            return used

    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        assert max(pool.map(rank, range(2))) < 0.05  # of a second


def test_segments_over_sockets_are_twice_as_large_as_in_shared_memory(tmp_path: Path) -> None:
    def segments(transport: str, r: int) -> int:
        store = f"file://{tmp_path}/{transport}"
        with gradwire.init(rank=r, size=2, store=store, transport=transport) as comm:
            comm.trace_start()
            comm.all_reduce(np.ones(1 << 18, np.float32), algorithm="ring")  # two chunks of 512 KiB
            return 1 + max(event.segment for event in comm.trace_stop())

    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        counts = {way: set(pool.map(partial(segments, way), range(2))) for way in ("shm", "tcp")}
    assert counts == {"shm": {8}, "tcp": {4}}


@pytest.mark.parametrize("seconds", [-1.0, 0.5, 4000.0])
def test_a_senseless_heartbeat_is_refused(seconds: float) -> None:
    with pytest.raises(gradwire.ArgumentError, match="HEARTBEAT_S"):
        gradwire.init(rank=0, size=1, heartbeat_s=seconds)
