"""`gradwire doctor` finds what is there, and what is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradwire
from gradwire import _native
from gradwire.bench import doctor, trial
from gradwire.bench.cli import main


def findings(capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, dict[str, str]]:
    assert main(["doctor", "--json"]) == code
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is (code == 0)
    return {check["what"]: check for check in told["checks"]}


def test_this_installation_is_sound(capsys: pytest.CaptureFixture[str]) -> None:
    found = findings(capsys)
    assert found["gradwire"]["found"].startswith(gradwire.__version__)
    assert found["kernels"]["found"].startswith(_native.isa())
    for name in _native.codec_names():
        assert name in found["codecs"]["found"]
    for what in ("python", "numpy", "codecs", "all_reduce"):
        assert found[what]["state"] == "ok", found[what]
    assert {
        "shm",
        "tcp",
        "cuda",
        "torch",
        "rich",
        "matplotlib",
        "cores",
        "/dev/shm",
        "settings",
    } <= found.keys()


def test_the_command_prints_a_line_for_everything() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gradwire", "doctor"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for what in ("all_reduce", "shm", "tcp", "cuda", "cores"):
        assert what in done.stdout


def test_what_is_not_installed_comes_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    found = findings(capsys)  # nothing essential: still 0
    for package in ("torch", "rich", "matplotlib"):
        assert found[package]["state"] == "off"
        assert "pip install" in found[package]["remedy"]


def test_settings_in_force_are_shown_and_typing_errors_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GRADWIRE_GPU", raising=False)  # where GPU tests run, which have loaded the simulator
    monkeypatch.setattr(doctor, "_trial", lambda name: name)
    monkeypatch.setenv("GRADWIRE_TIMEOUT_S", "20")
    monkeypatch.setenv("GRADWIRE_TIMEOUT", "20")
    monkeypatch.setenv("GRADWIRE_TOPOLOGY", "links.json")
    assert main(["doctor", "--json"]) == 0
    checks = [c for c in json.loads(capsys.readouterr().out)["checks"] if c["what"] == "settings"]
    assert {(c["found"].split("=")[0], c["state"]) for c in checks} == {
        ("GRADWIRE_TIMEOUT_S", "ok"),
        ("GRADWIRE_TOPOLOGY", "ok"),
        ("GRADWIRE_TIMEOUT", "warn"),
    }


def test_a_setting_that_cannot_be_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRADWIRE_TRANSPORT", "pigeon")
    monkeypatch.setattr(doctor, "_trial", lambda name: name)
    found = findings(capsys, code=1)
    assert found["settings"]["state"] == "broken" and "pigeon" in found["settings"]["found"]


def test_a_wrong_sum_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = gradwire.Communicator.all_reduce

    def wrong(self: gradwire.Communicator, x: Any, *rest: Any, **more: Any) -> Any:
        right(self, x, *rest, **more)
        x[7] += 1
        return x

    monkeypatch.setattr(gradwire.Communicator, "all_reduce", wrong)
    assert trial.main("auto", str(tmp_path)) == 1
    assert "1 + 2 came out as 4" in capsys.readouterr().err


def test_a_codec_that_loses_too_much_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gradwire, "decode", lambda frame: np.zeros(1000, np.float32))
    assert trial.main("codecs", "") == 1
    assert "identity gives back 1 relative error" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("raise SystemExit('a reason')", "a reason"),
        ("raise SystemExit(3)", "without a word"),
    ],
)
def test_the_doctor_outlives_what_it_examines(
    script: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = subprocess.run
    monkeypatch.setattr(
        subprocess, "run", lambda command, **more: run([sys.executable, "-c", script], **more)
    )
    found = findings(capsys, code=1)
    assert found["all_reduce"]["state"] == found["codecs"]["state"] == "broken"
    assert says in found["all_reduce"]["found"]
    assert found["shm"]["state"] == found["tcp"]["state"] == "warn"


def test_one_transport_that_fails_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_shm(name: str) -> str:
        if name == "shm":
            raise RuntimeError("RendezvousError: memfd_create: not permitted")
        return "tcp"

    monkeypatch.setattr(doctor, "_trial", no_shm)
    found = findings(capsys)
    assert (
        found["shm"]["state"] == "warn"
        and "not permitted" in found["shm"]["found"]
        and found["shm"]["remedy"]
    )
