"""The front door: finding rank, size and store in a launcher's environment; settings; codecs by name; test
helpers.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradwire
from gradwire import launch
from gradwire.config import make_config, seconds
from gradwire.testing import run_processes, run_ranks

# -- launchers -----------------------------------------------------------------------------------------------
ENVIRONMENTS = {
    "torchrun": (
        {"RANK": "3", "WORLD_SIZE": "8", "TORCHELASTIC_RUN_ID": "job", "TORCHELASTIC_RESTART_COUNT": "2"},
        launch.Launch(3, 8, "torchrun", "job-2"),
    ),
    "plain": ({"RANK": "0", "WORLD_SIZE": "2"}, launch.Launch(0, 2, "torchrun", "")),
    "Open MPI": (
        {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4", "PMIX_NAMESPACE": "prterun-7"},
        launch.Launch(1, 4, "Open MPI", "prterun-7"),
    ),
    "Intel MPI": ({"PMI_RANK": "1", "PMI_SIZE": "4"}, launch.Launch(1, 4, "MPI", "")),
    "Slurm": (
        {"SLURM_PROCID": "5", "SLURM_NTASKS": "16", "SLURM_JOB_ID": "99", "SLURM_STEP_ID": "0"},
        launch.Launch(5, 16, "Slurm", "99-0"),
    ),
}


@pytest.mark.parametrize("launcher", ENVIRONMENTS)
def test_rank_and_size_come_from_the_launcher(launcher: str) -> None:
    env, expected = ENVIRONMENTS[launcher]
    assert launch.discover(env) == expected


def test_without_a_launcher_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for env, _ in ENVIRONMENTS.values():
        for name in env:
            monkeypatch.delenv(name, raising=False)
    with pytest.raises(gradwire.ArgumentError, match="torchrun"):
        gradwire.init()


def test_a_restarted_job_does_not_read_the_keys_of_its_last_start() -> None:
    env, _ = ENVIRONMENTS["torchrun"]
    assert launch.discover(env).run != launch.discover({**env, "TORCHELASTIC_RESTART_COUNT": "3"}).run


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu[007-010,12],login", "gpu007"),
        ("a1,b2", "a1"),
        ("single", "single"),
        ("n[12,15-17]x", "n12x"),
        ("host-1.example.org,host-2", "host-1.example.org"),
    ],
)
def test_the_first_host_of_a_slurm_node_list(nodes: str, first: str) -> None:
    assert launch.first_host(nodes) == first


def test_the_store_of_every_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[Any, ...]] = []
    monkeypatch.setattr(launch, "TcpStore", lambda *a, **k: opened.append((*a, *k.values())))
    monkeypatch.setattr(launch, "_torch_group_store", lambda: None)
    here = launch.Launch(0, 2, "torchrun", "")
    launch.default_store(here, 5, {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"})
    launch.default_store(
        here, 5, {"GRADWIRE_STORE": "tcp://node2:77", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    )
    slurm = launch.Launch(1, 2, "Slurm", "99-0")
    launch.default_store(slurm, 5, {"SLURM_STEP_NODELIST": "gpu[3-4]"})
    assert opened[0] == ("node1", 29501, True, 5)
    assert opened[1] == ("node2", 77, True, 5)
    assert opened[2][0] == "gpu3" and 20000 <= opened[2][1] < 30000 and opened[2][2] is False
    with pytest.raises(gradwire.ArgumentError, match="GRADWIRE_STORE"):
        launch.default_store(launch.Launch(1, 2, "Open MPI", "j"), 5, {})


def test_mpi_ranks_of_one_host_meet_in_a_private_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    local = launch.Launch(0, 2, "Open MPI", "job/1")
    store, owned = launch.default_store(local, 5, {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"})
    store.set("k", b"v")
    [folder] = tmp_path.iterdir()
    assert owned and folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "store",
    [
        "",
        "file:relative",
        "file://host/path",
        "tcp://host",
        "tcp://host:port",
        "tcp://host:99999",
        "redis://h:1",
        7,
    ],
)
def test_a_store_that_cannot_be_read_is_refused(store: Any) -> None:
    with pytest.raises(gradwire.ArgumentError, match="store"):
        gradwire.init(rank=1, size=2, store=store, timeout=1)


def test_processes_find_one_another_through_their_environment(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        "import gradwire, numpy as np\n"
        "with gradwire.init() as comm:\n"
        "    print(comm.all_reduce(np.arange(3, dtype='f4')), [k for k, _ in comm.peers()])\n"
    )
    results = run_processes(3, script, timeout=60)
    assert [r.stdout for r in results] == [
        "[0. 3. 6.] ['self', 'shm', 'shm']\n",
        "[0. 3. 6.] ['shm', 'self', 'shm']\n",
        "[0. 3. 6.] ['shm', 'shm', 'self']\n",
    ]


def test_torchrun_starts_a_job_without_a_word_more(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    script = tmp_path / "job.py"
    script.write_text(
        "import gradwire, numpy as np\n"
        "with gradwire.init(timeout=60) as comm:\n"
        "    assert comm.all_reduce(np.float32([comm.rank]))[0] == 1\n"
    )
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(script),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


# -- settings ------------------------------------------------------------------------------------------------
def test_a_keyword_overrides_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADWIRE_SOCKETS", "3")
    monkeypatch.setenv("GRADWIRE_TIMEOUT_S", "7")
    assert make_config().sockets == 3 and make_config().timeout_s == 7
    assert make_config(sockets=5).sockets == 5
    assert make_config(timeout=timedelta(minutes=2)).timeout_s == 120


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"socket": 3}, "sockets"),
        ({"sockets": -1}, "SOCKETS"),
        ({"sockets": "two"}, "sockets"),
        ({"transport": "carrier pigeon"}, "shm"),
        ({"channel_bytes": 12345}, "power of two"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(gradwire.ArgumentError, match=word):
        gradwire.init(rank=0, size=1, **settings)


@pytest.mark.parametrize(("rank", "size"), [(1, 1), (-1, 2), (0, 0), (None, 2), (0, None)])
def test_a_rank_outside_its_size_is_refused(rank: Any, size: Any) -> None:
    with pytest.raises(gradwire.ArgumentError):
        gradwire.init(rank=rank, size=size, store="file:///nowhere")


def test_durations_are_seconds_or_timedelta() -> None:
    assert seconds(2) == 2.0 and seconds(timedelta(milliseconds=1500)) == 1.5


# -- codecs by name ------------------------------------------------------------------------------------------
def test_every_codec_can_be_made_and_written_the_way_it_prints() -> None:
    for name in gradwire.codecs():
        made = gradwire.codec(name)
        again = gradwire.codec(repr(made))
        assert (again.name, again.block, repr(again)) == (name, made.block, repr(made))


def test_parameters_in_the_name_and_as_keywords_mean_the_same() -> None:
    assert repr(gradwire.codec("int4(block=64)")) == repr(gradwire.codec("int4", block=64))
    assert repr(gradwire.codec(" topk( ratio = 0.1 , values=fp32 ) ")) == repr(
        gradwire.codec("topk", ratio=0.1, values="fp32")
    )


@pytest.mark.parametrize(
    "name",
    ["", "int9", "int4(", "int4(64)", "int4(blok=64)", "int4(block=x)", "int4(block=7)", "topk(ratio=2)"],
)
def test_a_codec_that_is_not_one_is_refused(name: str) -> None:
    with pytest.raises(gradwire.ArgumentError):
        gradwire.codec(name)


@pytest.mark.parametrize("nothing", [{"ratio": 0}, {"block": 0}, {"values": ""}])
def test_a_parameter_of_nothing_is_refused_not_replaced_by_the_default(nothing: dict[str, Any]) -> None:
    with pytest.raises(gradwire.ArgumentError, match="leave it out for the default"):
        gradwire.codec("topk", **nothing)


def test_auto_is_refused_where_there_is_no_choice_to_make() -> None:
    def rank(comm: gradwire.Communicator) -> None:
        with pytest.raises(gradwire.ArgumentError, match=r"auto.*all_reduce"):
            comm.all_reduce_many([np.ones(4, np.float32)], codec="auto")

    run_ranks(1, rank)


# -- the package ---------------------------------------------------------------------------------------------
def test_numpy_alone_is_enough() -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = None  # importing it fails\n"
        "import gradwire, numpy as np\n"
        "ranks = gradwire.testing.run_ranks(2, lambda c: c.all_reduce(np.ones(3, 'f4'), codec='int8'))\n"
        "print([float(x[0]) for x in ranks])\n"
        "assert not [m for m in sys.modules if m.startswith('torch.')]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.returncode) == ("[2.0, 2.0]\n", 0), done.stderr


def test_without_torch_its_part_says_what_to_install() -> None:
    code = "import sys; sys.modules['torch'] = None; import gradwire; gradwire.torch"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert "ImportError: gradwire.torch needs torch" in done.stderr


def test_all_names_in_all_are_there() -> None:
    assert all(hasattr(gradwire, name) for name in gradwire.__all__)
    assert not hasattr(gradwire, "no_such_name")


# -- test helpers --------------------------------------------------------------------------------------------
def test_run_ranks_raises_the_first_error_and_carries_all() -> None:
    def rank(comm: gradwire.Communicator) -> None:
        if comm.rank == 1:
            raise KeyError("mine")
        comm.barrier()

    with pytest.raises(KeyError) as caught:
        run_ranks(3, rank)
    errors = caught.value.rank_errors  # type: ignore[attr-defined]
    assert {r: type(e).__name__ for r, e in errors.items()} == {0: "Aborted", 1: "KeyError", 2: "Aborted"}


def test_run_ranks_names_a_rank_that_hangs_and_where() -> None:
    event = threading.Event()

    def rank(comm: gradwire.Communicator) -> None:
        if comm.rank == 1:
            event.wait(20)

    with pytest.raises(TimeoutError, match=r"rank 1 of 2[\s\S]*event.wait"):
        run_ranks(2, rank, timeout=0.3)
    event.set()


def test_run_processes_kills_what_hangs_and_shows_its_output(tmp_path: Path) -> None:
    script = tmp_path / "hang.py"
    script.write_text("import time\nprint('so far', flush=True)\ntime.sleep(60)\n")
    with pytest.raises(TimeoutError, match="so far"):
        run_processes(2, script, timeout=1.5)
    script.write_text("import sys\nsys.exit('broken ' + sys.argv[1])\n")
    with pytest.raises(RuntimeError, match="broken here"):
        run_processes(2, script, "here", timeout=30)
    assert [r.returncode for r in run_processes(2, script, "here", timeout=30, check=False)] == [1, 1]
