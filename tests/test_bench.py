"""The command `gradwire bench`: as a user runs it, and its arithmetic."""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gradwire
from gradwire.bench import all_reduce, arguments, check, entries, measure, report
from gradwire.bench.check import Question
from gradwire.bench.cli import main


def command(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "gradwire", *words],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == code, f"{words} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


QUICK = ["--iters", "3", "--rounds", "2", "--warmup", "1"]


# -- all_reduce as a command -----------------------------------------------------------------------
def test_two_ranks_report_every_column_and_nothing_wrong() -> None:
    out = command(
        "bench", "all_reduce", "--ranks", "2", "--sizes", "1k,64k", "--iters", "3", "--csv", "-"
    ).stdout
    rows = rows_of(out)
    assert list(rows[0]) == [c.key for c in all_reduce.COLUMNS]
    assert [int(r["size"]) for r in rows] == [1024, 65536]
    for r in rows:
        assert (r["wrong"], r["count"], r["dtype"]) == ("0", str(int(r["size"]) // 4), "float32")
        assert r["algorithm"] not in ("", "auto")
        assert float(r["algbw"]) == pytest.approx(int(r["size"]) / float(r["time_us"]) / 1e3, rel=1e-4)
        assert float(r["busbw"]) == pytest.approx(float(r["algbw"]), rel=1e-4)  # 2 (n-1)/n is 1 at n = 2
        assert int(r["wire_bytes"]) > int(r["size"]) // 2


def test_lossy_codecs_send_less_and_say_how_far_off_they_are(tmp_path: Path) -> None:
    log = tmp_path / "runs.jsonl"
    words = [
        "--codec",
        "none,int8,int4(block=64),topk(ratio=0.01)",
        "--algorithm",
        "direct,ring",
        "--op",
        "avg",
    ]
    command("bench", "all_reduce", "--ranks", "3", "--sizes", "256k", *words, *QUICK, "--json", str(log))
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(rows) == 8
    assert {r["wrong"] for r in rows} == {0}
    ratio = {(r["codec"], r["algorithm"]): r["ratio"] for r in rows}
    error = {(r["codec"], r["algorithm"]): r["rel_err"] for r in rows}
    for algorithm in ("direct", "ring"):
        assert 0.9 < ratio["none", algorithm] <= 1
        assert 3 < ratio["int8", algorithm] < 4 < ratio["int4(block=64)", algorithm] < 8
        assert ratio["topk(ratio=0.01)", algorithm] > 20
        assert error["none", algorithm] == 0
        assert 1e-3 < error["int8", algorithm] < 0.03 < error["int4(block=64)", algorithm] < 0.3
    run = rows[0]["run"]
    assert (run["ranks"], run["hosts"], run["cores"] > 0) == (3, 1, True)
    assert run["versions"]["gradwire"] == gradwire.__version__
    assert (
        run["command"].startswith("gradwire bench all_reduce --ranks 3") and "--store" not in run["command"]
    )


@pytest.mark.parametrize("dtype", ["fp64", "bf16", "fp16", "int32", "int64", "uint8"])
def test_every_type_is_checked(dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if dtype == "bf16":
        pytest.importorskip("torch")
    store = f"file://{tmp_path}/store"
    ops = ["sum", "min", "max", "prod"] + ["avg"] * (dtype in ("fp64", "bf16", "fp16"))
    for n, op in enumerate(ops):
        words = ["--rank", "0", "--size", "1", "--store", f"{store}{n}", "-o", op, "-d", dtype, *QUICK]
        assert main(["bench", "all_reduce", "--sizes", "100", *words, "--csv", "-"]) == 0
        (row,) = rows_of(capsys.readouterr().out)
        assert row["wrong"] == "0" and row["dtype"] == check.ALIASES.get(dtype, dtype)


def test_gloo_runs_beside_in_the_same_rounds(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    log = tmp_path / "runs.jsonl"
    words = ["--sizes", "1k,1m", "--vs", "gloo", *QUICK, "--csv", "-", "--json", str(log)]
    rows = rows_of(command("bench", "all_reduce", "--ranks", "2", *words).stdout)
    assert [(r["library"], r["size"]) for r in rows] == [
        ("gradwire", "1024"),
        ("gloo", "1024"),
        ("gradwire", "1048576"),
        ("gloo", "1048576"),
    ]
    assert all(r["wrong"] == "0" for r in rows)
    assert [r["wire_bytes"] for r in rows if r["library"] == "gloo"] == ["", ""]
    own, gloo = (json.loads(line) for line in log.read_text().splitlines()[:2])
    ratios = [b / a for a, b in zip(own["seconds"], gloo["seconds"])]
    assert len(ratios) == 2 and own["vs_gloo"] == pytest.approx(np.median(ratios))
    assert gloo["vs_gloo"] == 1


def test_the_table_and_the_plots_are_made(tmp_path: Path) -> None:
    pytest.importorskip("rich")
    pytest.importorskip("matplotlib")
    png = tmp_path / "out.png"
    words = ["--sizes", "1k,16k", "--codec", "none,int8", *QUICK, "--plot", str(png)]
    done = command("bench", "all_reduce", "--ranks", "2", *words)
    for column in all_reduce.COLUMNS:
        assert column.heading in done.stdout
    assert png.read_bytes().startswith(b"\x89PNG")
    assert done.stderr == ""  # no progress bar: this is no terminal
    png2 = tmp_path / "codec.png"
    assert "of memcpy" in command("bench", "codec", "--size", "64k", *QUICK[:4], "--plot", str(png2)).stdout
    assert png2.read_bytes().startswith(b"\x89PNG")


# -- wrong results ---------------------------------------------------------------------------------
def test_a_wrong_result_is_never_timed_and_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right = entries.Gradwire.bind

    def bind(self: entries.Gradwire, array: Any, op: str) -> Any:
        call = right(self, array, op)

        def off_by_one() -> None:
            call()
            array[array.size // 2] += 1

        return off_by_one if array.size == 256 else call

    monkeypatch.setattr(entries.Gradwire, "bind", bind)
    words = ["--rank", "0", "--size", "1", "--store", f"file://{tmp_path}/store", *QUICK]
    assert main(["bench", "all_reduce", "--sizes", "1k,2k", *words, "--csv", "-"]) == 1
    bad, good = rows_of(capsys.readouterr().out)
    assert (bad["wrong"], bad["time_us"], bad["busbw"]) == ("1", "", "")
    assert good["wrong"] == "0" and float(good["time_us"]) > 0


@pytest.mark.parametrize("fault", ["lost", "replica", "nan"])
def test_a_lossy_result_that_breaks_a_promise_is_wrong(fault: str) -> None:
    """A codec that loses something without telling its residual, or ranks that end with different bits."""

    def rank(comm: gradwire.Communicator) -> check.Verdict:
        class Faulty:
            rank, size = comm.rank, comm.size

            def all_reduce(self, x: Any, op: str = "sum", codec: Any = None, **rest: Any) -> Any:
                comm.all_reduce(x, op=op, codec=codec, **rest)
                if codec is not None and (fault == "lost" or (fault == "replica" and comm.rank == 1)):
                    x[500] += 1e-3
                if codec is not None and fault == "nan":
                    x[500] = np.nan
                return x

        q = Question(comm.rank, comm.size, 1000, "float32", "sum")
        codec = gradwire.codec("int8")
        assert check.lossy(comm, q, codec, "auto").wrong == 0
        return check.lossy(Faulty(), q, codec, "auto")  # type: ignore[arg-type]

    for verdict in gradwire.testing.run_ranks(2, rank):
        assert verdict.wrong > 0


def test_whole_number_inputs_sum_exactly_in_every_type() -> None:
    for dtype, size in (("bfloat16", 8), ("float16", 64), ("uint8", 100), ("float32", 3)):
        largest = {"bfloat16": 256, "float16": 2048, "uint8": 255, "float32": 2**24}[dtype]
        for op in ("sum", "prod", "min", "max"):
            q = Question(0, size, 70_000, dtype, op)
            want = check.exact_result(q)
            assert np.abs(want).max() <= largest and (want == np.round(want)).all()
            rows = [check.exact_input(Question(r, size, 70_000, dtype, op)) for r in range(size)]
            fold = {"sum": np.sum, "prod": np.prod, "min": np.min, "max": np.max}[op]
            assert (fold(rows, axis=0) == want).all()


# -- arithmetic ------------------------------------------------------------------------------------
def test_bus_bandwidth_is_that_of_nccl_tests() -> None:
    assert measure.bus_bandwidth(10, 2) == 10
    assert measure.bus_bandwidth(10, 4) == 15
    assert measure.bus_bandwidth(10, 1) == 0


def test_a_batch_ends_before_sums_overflow() -> None:
    for dtype in ("float16", "bfloat16", "float32", "float64"):
        for size in (2, 3, 8, 100):
            calls = measure.batch(Question(0, size, 64, dtype, "sum"))
            assert 1 <= calls <= 20
            assert calls == 1 or 6.0 * float(size) ** calls < measure._LARGEST[dtype]
    assert measure.batch(Question(0, 2, 1 << 20, "float32", "sum")) == 1
    assert measure.batch(Question(0, 2, 1 << 20, "float32", "sum"), 8) == 8
    assert measure.batch(Question(0, 8, 64, "float16", "sum"), 8) < 8


def test_spread_is_half_the_interquartile_range_over_the_median() -> None:
    assert report.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(1 / 3)
    assert report.spread([1.0, 2.0]) is None


def test_sizes_are_powers_of_1024() -> None:
    assert [arguments.parse_size(s) for s in ("1", "1k", "1.5KiB", "25m", "1GB")] == [
        1,
        1024,
        1536,
        25 << 20,
        1 << 30,
    ]
    for bad in ("", "k", "-1", "0", "1x", "1e6", "nan"):
        with pytest.raises(argparse.ArgumentTypeError):
            arguments.parse_size(bad)
    options = SimpleNamespace(sizes=None, min_bytes=None, max_bytes=None, factor=None)
    assert all_reduce.sizes_of(options)[0] == 1024 and all_reduce.sizes_of(options)[-1] == 64 << 20
    options.max_bytes = 100
    assert all_reduce.sizes_of(options) == [100]


def test_codec_parameters_do_not_end_a_list() -> None:
    assert arguments.parse_names("none, int8,topk(ratio=0.01, values=bf16),int8") == [
        "none",
        "int8",
        "topk(ratio=0.01,values=bf16)",
    ]


# -- bad arguments ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["bench"], "WHAT"),
        (["bench", "all_reduce", "--sizes", "1q"], "not a size"),
        (["bench", "all_reduce", "--sizes", "2", "-d", "fp32"], "holds no float32"),
        (["bench", "all_reduce", "--codec", "int9"], "int9"),
        (["bench", "all_reduce", "--codec", "int8", "--op", "max"], "sums and averages"),
        (["bench", "all_reduce", "--codec", "int8", "-d", "int32"], "works on floats"),
        (["bench", "all_reduce", "--algorithm", "square"], "not one of auto, "),
        (["bench", "all_reduce", "-b", "1m", "-e", "1k"], "less than --min-bytes"),
        (["bench", "all_reduce", "--sizes", "1k", "-b", "1k"], "excludes"),
        (["bench", "all_reduce", "-f", "1"], "never end"),
        (["bench", "all_reduce", "--ranks", "0"], "at least 1"),
        (["bench", "all_reduce", "--rank", "0"], "--size and --store"),
        (["bench", "all_reduce", "--rank", "2", "--size", "2", "--store", "file:///x"], "not less"),
        (["bench", "all_reduce", "--vs", "nccl"], "not one of gloo"),
        (["bench", "all_reduce", "--json", "-", "--csv", "-"], "mix on stdout"),
        (["bench", "all_reduce", "--csv", "/no/such/folder/x.csv"], "/no/such/folder"),
        (["bench", "codec", "--codec", "none"], "encodes nothing"),
        (["bench", "codec", "--size", "3"], "no float32"),
    ],
)
def test_bad_arguments_say_what_is_wrong_and_end_with_2(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert says in capsys.readouterr().err


def test_without_rich_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    assert main(["bench", "codec", "--codec", "int8", "--size", "4k"]) == 2
    assert "pip install 'gradwire[bench]'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["bench"], ["bench", "all_reduce"], ["bench", "codec"], ["doctor"]])
def test_help_is_everywhere(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "-h"]) == 0
    assert "usage: gradwire" in capsys.readouterr().out


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gradwire {gradwire.__version__}\n"


# -- codec -----------------------------------------------------------------------------------------
def test_bits_per_element_are_those_of_the_encoded_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--size", "256k", "--iters", "1", "--rounds", "3"]
    assert main(["bench", "codec", *words, "--csv", "-"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert [r["codec"] for r in rows] == gradwire.codecs()
    # the values that the command encodes: not every codec has a fixed size
    x = np.random.default_rng(1).standard_normal(1 << 16, np.float32)
    for r in rows:
        codec = gradwire.codec(r["codec"])
        payload = gradwire.encode(x, codec).size - 64  # the frame's header
        assert float(r["bits"]) == pytest.approx(8 * payload / x.size, rel=1e-5)
        assert (float(r["rel_err"]) > 0) == codec.lossy
        for stage in ("encode", "decode", "decode_add"):
            assert float(r[f"{stage}_gbs"]) > 0 and float(r[f"{stage}_memcpy"]) > 0
