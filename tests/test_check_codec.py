"""gradwire check-codec passes every codec of this build and finds what is wrong with one that is not fit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gradwire
from gradwire import _native
from gradwire.bench import cli
from gradwire.bench.check_codec import check

EXAMPLES = Path(__file__).parent.parent / "examples"
LISTED = [n for n in _native.codec_names() if gradwire.codec(n).id != 255]


@pytest.mark.parametrize("codec", LISTED)
def test_every_codec_of_this_build_passes(codec: str) -> None:
    assert [c for c in check(gradwire.codec(codec)) if c.passed is False] == []


class Plain:
    """fp32, as it is."""

    name = "test_plain"
    block = 4

    def encoded_bytes(self, count: int) -> int:
        return 4 * count

    def encode(self, x: Any) -> bytes:
        return bytes(x.tobytes())

    def decode(self, payload: Any, count: int) -> Any:
        return payload.view(np.float32)


class Drift(Plain):
    calls = 0

    def encode(self, x: Any) -> bytes:
        Drift.calls += 1
        return bytes((x * (1 + Drift.calls % 7 / 64)).tobytes())


class Clamp(Plain):
    def encode(self, x: Any) -> bytes:
        return bytes(np.nan_to_num(x).tobytes())


class Twice(Plain):
    def encode(self, x: Any) -> bytes:
        return bytes((-x).tobytes())


class Short(Plain):
    def encode(self, x: Any) -> bytes:
        return super().encode(x)[:-1]


class Whole(Plain):
    """A scale over whatever it is handed, not over a block."""

    def encode(self, x: Any) -> bytes:
        top = np.abs(x).max() if x.size and np.isfinite(x).all() else np.float32(1)
        return bytes((np.round(x / (top or 1) * 7) / 7 * top).astype(np.float32).tobytes())


class Crash(Plain):
    def decode(self, payload: Any, count: int) -> Any:
        values = payload.view(np.float32)
        if not np.abs(values[np.isfinite(values)]).max(initial=0) < 1e25:
            raise KeyError("a code that no table has")
        return values


@pytest.mark.parametrize(
    ("codec", "failing"),
    [
        (Plain, set()),
        (Drift, {"determinism"}),
        (Clamp, {"NaN and Inf"}),
        (Twice, {"contraction"}),
        (Whole, {"determinism"}),
        (Crash, {"hostile bytes"}),
    ],
)
def test_a_fault_is_found_by_the_check_that_names_it(codec: Any, failing: set[str]) -> None:
    gradwire.register_codec(codec)
    assert {c.name for c in check(gradwire.codec("test_plain")) if c.passed is False} == failing


def test_an_exception_is_a_failed_check_with_its_text() -> None:
    gradwire.register_codec(Short)
    found = {c.name: c for c in check(gradwire.codec("test_plain"))}
    assert not found["sizes"].passed and "bytes" in found["sizes"].found


def test_the_command_prints_a_table_and_exits_by_the_verdict(capsys: Any) -> None:
    assert cli.main(["check-codec", "int4", "topk(ratio=0.1)"]) == 0
    text = capsys.readouterr().out
    assert "contraction" in text and "pass" in text and "FAIL" not in text
    gradwire.register_codec(Clamp)
    assert cli.main(["check-codec", "test_plain"]) == 1
    assert "FAIL" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["int99", "none", "no_such_module:Codec", "json:NoClass"])
def test_what_is_no_codec_is_a_usage_error(word: str, capsys: Any) -> None:
    assert cli.main(["check-codec", word]) == 2
    assert "gradwire:" in capsys.readouterr().err


def test_the_example_runs_and_passes() -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    for command in (
        [sys.executable, "custom_codec.py"],
        [sys.executable, "-m", "gradwire", "check-codec", "custom_codec:Ternary"],
    ):
        done = subprocess.run(
            command, cwd=EXAMPLES, env=env, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.strip()
