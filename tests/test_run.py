"""`gradwire run`: what ranks are told, what comes out, and how it ends, well or not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
RUN = [sys.executable, "-m", "gradwire", "run"]


def hear_interrupts() -> None:
    """A shell starts what it puts in the background deaf to Ctrl-C, and that is inherited."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(*words: str, **how: Any) -> subprocess.Popen[str]:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*RUN, *words], preexec_fn=hear_interrupts, **pipes, **how)  # noqa: PLW1509 - no locks in it


def finish(*words: str, code: int = 0) -> tuple[list[str], list[str]]:
    process = start(*words)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
    return out.splitlines(), err.splitlines()


def script(folder: Path, text: str) -> str:
    path = folder / "script.py"
    path.write_text("import os, signal, sys, time\nrank = int(os.environ['RANK'])\n" + text)
    return str(path)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def all_gone(pids: list[int], within_s: float = 10.0) -> bool:
    until = time.monotonic() + within_s
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(alive, pids))


def pids_of(process: subprocess.Popen[str], ranks: int) -> list[int]:
    """Of a script whose ranks print their pid first."""
    assert process.stdout is not None
    return [int(process.stdout.readline().split()[1]) for _ in range(ranks)]


SLEEPS = "print(os.getpid())\ntime.sleep(60)\n"


def test_every_line_has_its_rank_in_front_and_every_rank_its_place(tmp_path: Path) -> None:
    names = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR"
    text = f"print(*[os.environ[n] for n in {names}], *sys.argv[1:])\nprint('no', file=sys.stderr, end='')"
    out, err = finish("-n", "3", script(tmp_path, text), "--steps", "3")
    assert sorted(out) == [f"[{r}] {r} 3 {r} 3 127.0.0.1 --steps 3" for r in range(3)]
    assert sorted(err) == [f"[{r}] no" for r in range(3)]


def test_modules_and_plain_output() -> None:
    assert finish("-n", "2", "--no-prefix", "-m", "platform")[0][0].startswith("Linux")


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("sys.exit(7)", 7, "ended with exit code 7"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "was ended by SIGKILL"),
    ],
)
def test_a_rank_that_fails_is_named_and_ends_the_others(
    tmp_path: Path, end: str, code: int, said: str
) -> None:
    text = f"print(os.getpid())\nif rank == 1:\n    time.sleep(0.3)\n    {end}\ntime.sleep(60)"
    process = start("-n", "3", "--grace", "0.1", script(tmp_path, text))
    pids = pids_of(process, 3)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code
    (line,) = err.splitlines()
    assert line.startswith("gradwire: rank 1 (pid ") and line.endswith(f"{said}; ending the other 2")
    assert all_gone(pids)


def test_what_a_rank_started_ends_with_it(tmp_path: Path) -> None:
    text = (
        "import subprocess\nchild = subprocess.Popen(['sleep', '60'])\nprint(child.pid)\n"
        "time.sleep(0.2)\nsys.exit(rank)"
    )
    process = start("-n", "2", script(tmp_path, text))
    pids = pids_of(process, 2)
    process.communicate(timeout=30)
    assert process.returncode == 1 and all_gone(pids)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_no_rank_outlives_the_launcher(tmp_path: Path, number: signal.Signals, code: int) -> None:
    process = start("-n", "2", script(tmp_path, SLEEPS))
    pids = pids_of(process, 2)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (code, "")
    assert all_gone(pids)


def test_a_rank_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gradwire.bench import processes

    monkeypatch.setattr(processes, "_END_S", 0.3)
    text = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nif rank == 1:\n    sys.exit(3)\ntime.sleep(60)"
    env = {**os.environ}
    path = script(tmp_path, text)
    commands = [processes.Command([sys.executable, path], {**env, "RANK": str(r)}) for r in range(2)]
    assert processes.run_ranks(commands, grace_s=0.5) == 3


def test_a_second_interrupt_leaves_no_rank_either(monkeypatch: pytest.MonkeyPatch) -> None:
    from gradwire.bench import processes

    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    deaf += "; print(1, flush=True); time.sleep(60)"
    ranks = [
        subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE, start_new_session=True)
        for _ in range(2)
    ]
    for rank in ranks:
        assert rank.stdout is not None and rank.stdout.readline() == b"1\n"
    wait, interrupts = processes._wait_for, [KeyboardInterrupt()]

    def interrupted(of: Any, seconds: float) -> None:
        if interrupts:
            raise interrupts.pop()
        wait(of, seconds)

    monkeypatch.setattr(processes, "_wait_for", interrupted)
    with pytest.raises(KeyboardInterrupt):
        processes._end(ranks)
    assert [rank.poll() for rank in ranks] == [-signal.SIGKILL] * 2


ALL_REDUCE = """\
import gradwire, numpy as np
with gradwire.init(timeout=20) as comm:
    print(comm.rank, comm.size, comm.all_reduce(np.float32([comm.rank]))[0])
"""


def test_ranks_meet_without_being_told_where(tmp_path: Path) -> None:
    out, _ = finish("-n", "3", script(tmp_path, ALL_REDUCE))
    assert sorted(out) == [f"[{r}] {r} 3 3.0" for r in range(3)]


def test_several_hosts_are_reached_by_the_given_shell(tmp_path: Path) -> None:
    shell = tmp_path / "shell"  # ssh's arguments: host, command line
    shell.write_text('#!/bin/sh\nhost=$1; shift\nREACHED=$host exec sh -c "$*"\n')
    shell.chmod(0o755)
    text = ALL_REDUCE + "print('host', rank, os.environ.get('REACHED'), os.environ['GROUP_RANK'])"
    hosts = ["--hosts", "localhost,away", "--ssh", str(shell)]
    out, _ = finish("-n", "2", *hosts, script(tmp_path, text))
    assert sorted(line for line in out if "host" not in line) == [f"[{r}] {r} 4 6.0" for r in range(4)]
    reached = sorted(line.split("host ")[1] for line in out if "host" in line)
    assert reached == ["0 None 0", "1 None 0", "2 away 1", "3 away 1"]


def test_a_dry_run_prints_what_would_be_started(tmp_path: Path) -> None:
    out, _ = finish("-n", "1", "--hosts", "localhost,away", "--dry-run", "train.py", "--lr", "a b")
    assert out[0].startswith("env WORLD_SIZE=2") and out[0].endswith("train.py --lr 'a b'")
    assert out[1].startswith("ssh -tt -o BatchMode=yes away 'cd ") and "RANK=1" in out[1]


@pytest.mark.parametrize("words", [["no_such.py"], ["--hosts", "a,", "x.py"], ["-n", "0", "x.py"], []])
def test_mistakes_end_with_2(words: list[str]) -> None:
    assert finish(*words, code=2)[1]


def mpiruns() -> list[Path]:
    """Every mpirun on the PATH: Open MPI's, MPICH's and Intel's have the same name."""
    found = (Path(folder) / "mpirun" for folder in os.get_exec_path())
    return [path for path in found if os.access(path, os.X_OK)]


AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


@pytest.mark.parametrize("example", ["raw_numpy.py", "ddp_gpt.py"])
@pytest.mark.parametrize("mpirun", mpiruns() or [None], ids=str)
def test_examples_run_under_mpirun(mpirun: Path | None, example: str) -> None:
    if mpirun is None:
        pytest.skip("no mpirun on the PATH: install Open MPI, MPICH or Intel MPI to try it")
    words = ["--steps", "2"] if example == "ddp_gpt.py" else []
    if words:
        pytest.importorskip("torch")
    command = [str(mpirun), "-n", "2", sys.executable, str(ROOT / "examples" / example), *words]
    env = {**os.environ, **AS_ROOT, "PATH": f"{mpirun.parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=env)
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert "on 2 ranks" in done.stdout or "times less than dense" in done.stdout, done.stdout


def test_an_example_runs_under_gradwire_run() -> None:
    out, _ = finish("-n", "2", str(ROOT / "examples" / "raw_numpy.py"))
    assert any("replicas are bit-identical: True" in line for line in out)
