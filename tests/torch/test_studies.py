"""benchmarks/rate_distortion.py and benchmarks/convergence.py, in a setting of seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("rich")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
from studies import rate_plots, rows, tables  # noqa: E402  # the folder of the scripts is no package
from studies.codecs import Method, listed, methods  # noqa: E402
from studies.training import train  # noqa: E402

import gradwire  # noqa: E402

RUN = {"time", "host", "cpu", "cores", "kernel", "isa", "versions", "settings", "command", "stated"}


def run(script: str, *words: str) -> str:
    command = [sys.executable, str(BENCHMARKS / script), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# -- convergence -----------------------------------------------------------------------------------
def test_one_seed_trains_to_the_same_bits_and_another_codec_to_others() -> None:
    int8 = Method("int8", "int8")
    a, b = (train("digits", int8, 3, 4, ranks=3) for _ in range(2))
    assert {**a, "cpu_s": 0} == {**b, "cpu_s": 0}
    others = [
        train("digits", Method("dense"), 3, 4, ranks=3),
        train("digits", Method("no EF", "int8", error_feedback=False), 3, 4, ranks=3),
        train("digits", int8, 4, 4, ranks=3),
    ]
    assert len({a["hash"], *(r["hash"] for r in others)}) == 4


def test_a_warmup_sends_dense_first_and_little_afterwards() -> None:
    row = train("digits", Method("warm", "topk", warmup=0.5), 0, 4, ranks=2, points=4)
    sent = [p["bytes"] for p in row["curve"]]
    steps = [b - a for a, b in zip([0, *sent], sent)]
    assert row["warmup_steps"] == 2 and steps[0] == steps[1] > 10 * steps[2] == 10 * steps[3]
    assert row["bytes_per_step"] == steps[3] and row["bytes_total"] == sent[3]


def test_finished_trainings_are_not_repeated(tmp_path: Path) -> None:
    words = ("--steps", "2", "--seeds", "0,1", "--ranks", "2", "--jobs", "1", "--out", str(tmp_path))
    run("convergence.py", "--only", "dense", "--tasks", "digits", *words)
    out = run("convergence.py", "--only", "dense,int4", "--tasks", "digits", *words)
    assert "4 trainings, 2 of them are in convergence.jsonl already" in out and "worse than dense" in out
    found = lines(tmp_path / "convergence.jsonl")
    assert [(r["method"], r["seed"]) for r in found] == [("dense", 0), ("dense", 1), ("int4", 0), ("int4", 1)]
    for row in found:
        assert set(row["run"]) == RUN and "benchmarks/convergence.py" in row["run"]["command"]
        assert 0 <= row["accuracy"] <= 1 and row["loss"] > 0 and not row["diverged"]
        assert row["curve"][-1]["bytes"] == row["bytes_total"] == 2 * row["bytes_per_step"]
    assert found[0]["ratio"] == pytest.approx(1, abs=0.02) and 5 < found[2]["ratio"] < 8
    assert found[2]["codec"] == repr(gradwire.codec("int4")) and found[2]["error_feedback"]
    assert (tmp_path / "convergence.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("method", methods(), ids=lambda m: m.name)
def test_every_method_trains(method: Method) -> None:
    row = train("digits", method, 0, 1, ranks=2)
    assert not row["diverged"] and row["bytes_per_step"] > 0


def test_every_codec_of_the_registry_is_studied() -> None:
    names = set(gradwire.codecs())
    assert {c.name for c in listed()[0]} == names
    trained = {m.codec.partition("(")[0] for m in methods() if m.codec is not None}
    assert names - trained == {"identity"} and trained - names == {"powersgd"}
    assert len({m.name for m in methods()}) == len(methods())


def test_worse_than_dense_is_positive_for_a_higher_loss_and_a_lower_accuracy() -> None:
    dense = [{"seed": s, "loss": 2.0, "accuracy": 0.9} for s in (0, 1)]
    found = [{"seed": 1, "loss": 2.2, "accuracy": 0.81, "diverged": False}, {"seed": 0, "diverged": True}]
    assert tables.against_dense(found, dense, "loss") == [pytest.approx(0.1)]
    assert tables.against_dense(found, dense, "accuracy") == [pytest.approx(0.1)]


def test_what_diverged_is_null_in_json(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows.append(path, {"loss": float("nan"), "curve": [{"loss": float("inf")}]})
    with path.open("a") as file:
        file.write('{"cut off by an inter')
    assert rows.read(path) == [{"loss": None, "curve": [{"loss": None}]}]


# -- rate_distortion -------------------------------------------------------------------------------
def test_rate_distortion_measures_tabulates_and_draws(tmp_path: Path) -> None:
    words = ["--inputs", "N(0,1);lognormal", "--count", "8192", "--seeds", "0,1", "--out", str(tmp_path)]
    words += ["--only", "int8(*;int4(block=32)", "--ranks", "2,3", "--reduce-count", "4096"]
    out = run("rate_distortion.py", *words)
    assert "int4(block=32)" in out and "torch bf16 cast" in out and "n = 3" in out
    found = lines(tmp_path / "rate_distortion.jsonl")
    assert all(set(r["run"]) == RUN for r in found)
    (int4,) = (r for r in found if r["entry"] == "int4(block=32)" and r.get("input") == "N(0,1)")
    assert int4["bits"] == 4.5 and len(int4["rel_err_by_seed"]) == 2
    assert 0.07 < int4["rel_err"] < 0.09  # 8.7 % is the codec's bar
    reduced = [r for r in found if r["study"] == "all-reduce"]
    assert {(r["entry"].partition("(")[0], r["ranks"]) for r in reduced} == {
        (name, n) for name in ("int8", "int4") for n in (2, 3)
    }
    assert all(1 < r["over_one_encode"] < 1.45 for r in reduced)
    for picture in ("rate_distortion.png", "all_reduce_error.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    assert "n = 3" in run("rate_distortion.py", "--draw", "--out", str(tmp_path))


def test_the_front_holds_what_nothing_beats_in_both() -> None:
    points = [{"bits": b, "rel_err": e} for b, e in ((8, 0.1), (4, 0.2), (5, 0.3), (8, 0.05), (2, 0.9))]
    assert [(p["bits"], p["rel_err"]) for p in rate_plots.front(points)] == [(2, 0.9), (4, 0.2), (8, 0.05)]
