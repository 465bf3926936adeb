"""Failure as a scenario: one of four ranks dies, stops, or is cut off, in every phase of every schedule.

Every survivor must raise, within the timeout, an error that names the culprit. Nothing may stay behind."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradwire
from gradwire import _native

HERE = Path(__file__).parent
SIZE = 4
ALGORITHMS = ["direct", "ring", "double_tree", "one_shot"]


# -- every phase: ranks as threads, each message delayed so that a phase lasts a known time --------

PHASE_S = 0.02
TIMEOUT_S = 1.0


def rounds(algorithm: str) -> int:
    schedules = [_native.make_schedule(algorithm, "all_reduce", r, SIZE) for r in range(SIZE)]
    return 1 + max(step.round for s in schedules for lane in s.lanes for step in lane)


def survivors_of(
    algorithm: str, fault: str, after_s: float, codec: str | None = None
) -> dict[int, gradwire.GradwireError]:
    """Four ranks all_reduce over and over; rank 2 breaks after `after_s` seconds. The survivors' errors."""
    victim = 2
    hub = _native.InprocHub(SIZE)
    for a in range(SIZE):
        for b in range(SIZE):
            if a != b:
                hub.delay(a, b, PHASE_S)
    errors: dict[int, gradwire.GradwireError] = {}
    elapsed: dict[int, float] = {}
    start = threading.Barrier(SIZE + 1)

    def rank(r: int) -> None:
        comm = gradwire.init(rank=r, size=SIZE, store=hub, timeout=TIMEOUT_S)
        x = np.full(1000, r, np.float32)
        start.wait()
        t0 = time.monotonic()
        try:
            while (
                True
            ):  # the fault may come after this rank's part is over: it must be seen by the next call then
                comm.all_reduce(x, algorithm=algorithm, codec=codec)
        except gradwire.GradwireError as e:
            errors[r] = e
            elapsed[r] = time.monotonic() - t0
        comm.close()

    threads = [threading.Thread(target=rank, args=(r,), daemon=True) for r in range(SIZE)]
    for t in threads:
        t.start()
    start.wait()
    time.sleep(after_s)
    if fault == "killed":
        hub.close(victim)
    else:
        for other in range(SIZE):
            if other != victim:
                hub.drop(victim, other)
                hub.drop(other, victim)
    for t in threads:
        t.join(after_s + 4 * TIMEOUT_S)
        assert not t.is_alive(), f"a rank hangs: {algorithm}, {fault} after {after_s} s"
    errors.pop(victim, None)
    assert sorted(errors) == [r for r in range(SIZE) if r != victim]
    slowest = max(elapsed[r] for r in errors)
    assert slowest < after_s + 2 * TIMEOUT_S + 0.5, f"took {slowest:.2f} s"
    return errors


@pytest.mark.parametrize("fault", ["killed", "cut off"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_survivors_name_the_culprit_in_every_phase(algorithm: str, fault: str) -> None:
    for phase in range(rounds(algorithm) + 1):
        errors = survivors_of(algorithm, fault, (phase + 0.5) * PHASE_S)
        for r, e in errors.items():
            assert isinstance(e, (gradwire.PeerLost, gradwire.Timeout)), (phase, r, repr(e))
            assert e.rank == 2, f"phase {phase}: rank {r} names rank {e.rank}: {e}"
            assert e.op == "all_reduce" and e.host and e.step is not None, (phase, r, repr(e))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_lossy_operation_fails_the_same_way(algorithm: str) -> None:
    for e in survivors_of(algorithm, "killed", 0.5 * PHASE_S, codec="int8").values():
        assert isinstance(e, gradwire.PeerLost) and e.rank == 2


# -- real processes --------------------------------------------------------------------------------


class Ranks:
    """Four processes of fault_worker.py; `prefix` may put each into a network namespace."""

    def __init__(self, tmp: Path, prefix: list[list[str]] | None = None, **options: object) -> None:
        store = options.pop("store", f"file://{tmp}/store")
        self.processes = []
        for r in range(SIZE):
            argument = json.dumps(
                {"rank": r, "size": SIZE, "store": store, "timeout": 3.0, "codec": None, **options}
            )
            self.processes.append(
                subprocess.Popen(
                    [*(prefix[r] if prefix else []), sys.executable, str(HERE / "fault_worker.py"), argument],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    bufsize=1,
                )
            )
        for p in self.processes:
            assert self.line(p, 60) == "ready"

    @staticmethod
    def line(p: subprocess.Popen[str], seconds: float) -> str:
        assert p.stdout is not None
        ready, _, _ = select.select([p.stdout], [], [], seconds)
        assert ready, "no answer from a rank: it hangs"
        return p.stdout.readline().strip()

    def go(self) -> None:
        for p in self.processes:
            assert p.stdin is not None
            p.stdin.write("go\n")
            p.stdin.flush()

    def reports(self, victim: int) -> dict[int, dict[str, object]]:
        return {r: json.loads(self.line(p, 15)) for r, p in enumerate(self.processes) if r != victim}

    def end(self) -> None:
        for p in self.processes:
            with contextlib.suppress(ProcessLookupError):
                p.send_signal(signal.SIGCONT)
                p.kill()
            p.communicate(timeout=10)


def check(
    reports: dict[int, dict[str, object]], victim: int, kinds: set[str], op: str = "all_reduce"
) -> None:
    for r, report in reports.items():
        assert report["error"] in kinds, (r, report)
        assert report["rank"] == victim, (r, report)
        assert report["op"] == op and report["host"], (r, report)
        assert report["step"] is not None and report["step"] >= 0, (r, report)
        assert report["seconds"] < 3.0 + 1.5, (r, report)


@pytest.mark.parametrize("transport", ["shm", "tcp"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_killed_process_is_named_at_once(algorithm: str, transport: str, tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, algorithm=algorithm, transport=transport, count=1 << 20)
    try:
        ranks.go()
        time.sleep(0.05 + 0.01 * len(algorithm))  # somewhere inside one of the back-to-back operations
        ranks.processes[1].kill()
        check(ranks.reports(1), 1, {"PeerLost"})
    finally:
        ranks.end()


@pytest.mark.parametrize(
    ("algorithm", "transport"), [("direct", "shm"), ("ring", "tcp"), ("double_tree", "shm")]
)
def test_a_stopped_process_is_named_by_the_deadline(algorithm: str, transport: str, tmp_path: Path) -> None:
    ranks = Ranks(tmp_path, algorithm=algorithm, transport=transport, count=1 << 20)
    try:
        ranks.go()
        time.sleep(0.1)
        ranks.processes[3].send_signal(signal.SIGSTOP)
        check(ranks.reports(3), 3, {"Timeout"})
    finally:
        ranks.end()


@pytest.mark.parametrize(("fault", "kind"), [(signal.SIGKILL, "PeerLost"), (signal.SIGSTOP, "Timeout")])
@pytest.mark.parametrize("algorithm", ["direct", "ring"])
def test_arrays_that_peers_map_survive_a_rank_that_is_gone(
    algorithm: str, fault: signal.Signals, kind: str, tmp_path: Path
) -> None:
    ranks = Ranks(tmp_path, algorithm=algorithm, transport="shm", count=1 << 20, shared=True)
    try:
        ranks.go()
        time.sleep(0.1)
        ranks.processes[1].send_signal(fault)
        check(ranks.reports(1), 1, {kind})
    finally:
        ranks.end()


@pytest.mark.parametrize(
    ("victim", "fault", "kind"), [(0, signal.SIGKILL, "PeerLost"), (1, signal.SIGSTOP, "Timeout")]
)
def test_a_rank_is_named_that_is_gone_while_its_host_reads_one_board(
    victim: int, fault: signal.Signals, kind: str, tmp_path: Path
) -> None:
    ranks = Ranks(tmp_path, algorithm="direct", transport="shm", count=1 << 20, root=0)
    try:
        ranks.go()
        time.sleep(0.1)
        ranks.processes[victim].send_signal(fault)
        check(ranks.reports(victim), victim, {kind}, op="broadcast")
    finally:
        ranks.end()


def test_nothing_stays_behind_after_a_crash(tmp_path: Path) -> None:
    before = set(os.listdir("/dev/shm"))
    ranks = Ranks(tmp_path, algorithm="direct", transport="shm", count=1 << 18, shared=True)
    try:
        ranks.go()
        time.sleep(0.05)
        for p in ranks.processes:
            p.kill()
    finally:
        ranks.end()
    assert set(os.listdir("/dev/shm")) <= before


# -- a link that drops everything, between real hosts (network namespaces) -------------------------


@pytest.mark.parametrize("algorithm", ["direct", "ring"])
def test_a_silently_dropped_link_is_named_by_the_deadline(
    make_lab: Callable[..., Any], algorithm: str, tmp_path: Path
) -> None:
    lab = make_lab(SIZE)
    ranks = Ranks(
        tmp_path,
        [lab.command(i, []) for i in range(SIZE)],
        store=f"tcp://{lab.address(0)}:29400",
        algorithm=algorithm,
        transport="auto",
        count=1 << 18,
    )
    try:
        ranks.go()
        time.sleep(0.2)
        lab.cut(2)  # no reset, no FIN, nothing
        check(ranks.reports(2), 2, {"Timeout"})
    finally:
        ranks.end()


# -- afterwards ------------------------------------------------------------------------------------


def test_every_later_call_raises_the_first_error() -> None:
    hub = _native.InprocHub(2)
    seen: list[gradwire.GradwireError] = []

    def rank(r: int) -> None:
        comm = gradwire.init(rank=r, size=2, store=hub, timeout=0.5)
        if r == 0:
            for _ in range(3):
                with pytest.raises(gradwire.Timeout) as caught:
                    comm.all_reduce(np.zeros(10, np.float32))
                seen.append(caught.value)
        else:
            time.sleep(1.0)  # never calls
        comm.close()

    threads = [threading.Thread(target=rank, args=(r,), daemon=True) for r in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(10)
    assert len(seen) == 3 and len({str(e) for e in seen}) == 1 and seen[0].rank == 1
