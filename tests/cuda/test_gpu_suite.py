"""benchmarks/gpu_suite, tiny: on the simulator, or on the GPU there is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rich")

SIMULATED = os.environ.get("GRADWIRE_GPU") == "sim"
BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
from gpu_suite import arrays, bars, bounds, checks, clock, codec_speed, floors, peers, suite, verdicts  # noqa: E402
from gpu_suite.sizes import LARGE, MEDIUM, REDUCED  # noqa: E402

import gradwire  # noqa: E402
from gradwire import gpu_peers  # noqa: E402


def test_one_command_checks_and_times_every_kernel(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    command = [sys.executable, str(BENCHMARKS / "gpu_suite"), "--no-build", "--json", str(out)]
    command += ["--minutes", "0.5"] if SIMULATED else ["--minutes", "1", "--sizes", "16k"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=115, check=False)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert "MISSED: codec" not in done.stdout and "bars" in done.stdout
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(row["wrong"] in (0, None) and row["run"]["gpu"] for row in rows)
    checked = {row["codec"] for row in rows if row["part"] == "check" and row["compared"]}
    assert {"int8(block=128)", "int4(block=32)", "bf16"} <= checked
    timed = {(row["entry"], row["stage"]) for row in rows if row["part"] == "codec" and row["time_us"]}
    stages = ("encode", "encode_ef_fp32", "encode_ef_bf16", "encode_ef_int8", "decode", "decode_add")
    assert {("copy", "copy"), *(("gradwire", stage) for stage in stages)} <= timed
    assert all(row["skipped"] for row in rows if row["part"] == "codec" and not row["time_us"])
    reduced = {(row["ranks"], row["stage"]) for row in rows if row["part"] == "all_reduce"}
    assert reduced == {(n, name) for n in (2, 4, 8) for name in ("one-shot", "two-shot", "ring", "tree")}
    implied = [row for row in rows if row["part"] == "bound"]
    assert {(row["ranks"], row["codec"]) for row in implied} == {
        (n, codec) for n in (2, 4, 8) for codec in (None, "int8(block=64)")
    }
    assert done.stdout.count("kPeerBounds[] = {{2, ") == 2
    (trained,) = (row for row in rows if row["part"] == "ddp")
    assert all(json.loads(Path(trace).read_text())["traceEvents"] for trace in trained["traces"])


def test_a_wrong_result_is_found_and_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = arrays.Own()
    right = kind.get
    # one byte of what comes back from the GPU is flipped
    monkeypatch.setattr(kind, "get", lambda x: right(x) ^ (np.arange(right(x).size) == 5).astype(np.uint8))
    found = list(checks.codec_rows(kind, 500, ["int8"]))
    assert found and all(row["wrong"] > 0 for row in found)
    assert checks.replay_row(kind, True, 2, 1000)["wrong"] == 2
    bench = codec_speed.Bench(kind, clock.Simulated(lambda: None), ["int8"])
    rows = list(bench.rows([4096], 0.0, _Silent()))
    assert [row["entry"] for row in rows if row["time_us"]] == ["copy"]
    assert "MISSED: codec on gradwire arrays" in "\n".join(bars.verdicts(found))


class _Silent:
    def step(self, what: str) -> None: ...


def row(entry: str, stage: str, size: int, time_us: float, of_copy: float = 0.95) -> dict[str, Any]:
    codec = "topk(ratio=0.01)" if stage == "topk" else "int8(block=64)"
    seconds = [time_us / 1e6] * 3
    what = {"part": "codec", "entry": entry, "stage": stage, "size": size, "codec": codec, "skipped": None}
    return {**what, "time_us": time_us, "of_copy": of_copy, "seconds": seconds, "wrong": 0}


def test_bars_are_met_at_their_size_and_by_the_best_peer_alone() -> None:
    rows = [
        row("gradwire", "decode_add", LARGE, 10, of_copy=0.89),
        row("gradwire", "encode_ef_fp32", LARGE, 10),
        row("gradwire", "encode_ef_fp32", MEDIUM, 10, of_copy=0.5),
        row("triton", "encode_ef_fp32", MEDIUM, 19),
        row("cupy", "encode_ef_fp32", MEDIUM, 90),
        row("gradwire", "topk", LARGE, 10),
        row("torch", "topk", LARGE, 31),
    ]
    text = "\n".join(bars.verdicts(rows))
    assert "MISSED: decode_add int8(block=64): 89.0% of the copy rate" in text
    assert "met: encode_ef_fp32 int8(block=64): 95.0%" in text and "50.0%" not in text
    assert "MISSED: encode_ef_fp32 at the medium size: 1.90x triton" in text
    assert "met: top-k: 3.10x torch.topk" in text
    assert "not measured: topk against peers" in text


def test_the_floor_of_an_all_reduce_is_its_bytes_at_the_copy_rate() -> None:
    coded = gradwire.codec("int8(block=64)").encoded_bytes(REDUCED // 4)
    us = {c: floors.nbytes("direct", 8, REDUCED, c) / 4.3e12 * 1e6 for c in (None, coded)}
    assert [round(t) for t in us.values()] == [610, 547]  # as computed for an H200
    reduced = {**row("8 virtual ranks", "two-shot", REDUCED, 10), "part": "all_reduce", "over_floor": 1.3}
    assert "MISSED: two-shot int8(block=64) of 8 virtual ranks: 1.30x its floor" in "\n".join(
        bars.verdicts([reduced])
    )


def test_the_bound_of_one_shot_is_where_two_shot_loses_least_and_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def timed(n: int, size: int, one: float, two: float, codec: str | None = None) -> list[dict[str, Any]]:
        what = {"part": "all_reduce", "ranks": n, "codec": codec}
        times = (("one-shot", one), ("two-shot", two))
        return [{**row(f"{n} virtual ranks", stage, size, t), **what} for stage, t in times]

    k = 1 << 10
    rows = [
        # in any order; a lucky one-shot at 1024k does not move the bound
        *(timed(4, 1024 * k, 9, 10) + timed(4, 64 * k, 5, 9) + timed(4, 512 * k, 9, 8)),
        *(timed(4, 4096 * k, 90, 40) + timed(4, 256 * k, 7, 9)),
        *(timed(2, 64 * k, 5, 9) + timed(2, 4096 * k, 40, 44)),
        *(timed(8, 1000, 9, 8) + timed(8, 4096 * k, 90, 40)),
        *timed(4, 64 * k, 9, 5, codec="int8"),
        {**row("4 virtual ranks", "two-shot", k, 1), "part": "all_reduce", "ranks": 4, "seconds": None},
    ]
    found = list(bounds.rows(rows))
    assert [(r["codec"], r["ranks"], r["size"]) for r in found] == [
        (None, 2, None),
        (None, 4, 512 * k),
        (None, 8, 1000),
        ("int8", 4, 64 * k),
    ]
    assert found[1]["ratios"][0] == (64 * k, pytest.approx(9 / 5))
    plain, coded = bounds.table(found)
    assert plain.startswith("kPeerBounds[] = {{2, ~size_t{0}}, {4, 512 << 10}, {8, 1000}};  // plain")
    assert coded == "kPeerBounds[] = {{4, 64 << 10}};  // int8, timed at 64 KiB to 64 KiB"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept = bounds.keep(found)
    assert kept is not None and kept.parent == tmp_path / "gradwire"
    assert [gpu_peers.one_shot_below(n) for n in (2, 3, 8, 9)] == [2**63 - 1, 512 * k, 1000, 0]
    assert bounds.keep([]) is None


def test_a_part_that_fails_is_reported_and_the_others_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(of: Any, bar: Any) -> Any:
        raise RuntimeError("the GPU fell off the bus")

    def fine(of: Any, bar: Any) -> Any:
        yield checks.row("other", None, None, 1, 0)

    monkeypatch.setattr(suite, "PARTS", {"broken": broken, "fine": fine})
    args = SimpleNamespace(minutes=1, json=str(tmp_path / "rows.jsonl"), parts=None)
    assert suite.run(args, time.monotonic()) == 1  # type: ignore[arg-type]
    out = capsys.readouterr().out
    assert "MISSED: part broken: RuntimeError: the GPU fell off the bus" in out and "met: other" in out
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 2


def test_the_time_that_was_given_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def endless(of: Any, bar: Any) -> Any:
        of.simulated = False  # which is not cut off
        while True:
            time.sleep(0.05)
            yield checks.row("endless", None, None, 1, 0)

    monkeypatch.setattr(suite, "PARTS", {"endless": endless, "last": endless})
    args = SimpleNamespace(minutes=0.02, json=str(tmp_path / "rows.jsonl"), parts=None)
    assert suite.run(args, time.monotonic()) == 0  # type: ignore[arg-type]
    out = capsys.readouterr().out
    assert "met: endless" in out
    for part in ("endless", "last"):
        assert f"not measured: part {part}: the 0.02 minutes are over" in out


def test_a_peer_that_is_not_there_is_a_row_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    torch_kind = SimpleNamespace(name="torch")
    monkeypatch.setattr(peers, "installed", lambda module: module == "torch")
    found = {e.what["entry"]: e.what["skipped"] for e in peers.entries(torch_kind, np.zeros(64, np.float32))}
    assert set(found) == {"torch.compile", "torch", "triton", "cupy", "cub"} and all(found.values())
    assert found["triton"] == "triton is not installed" and found["cupy"] == "cupy is not installed"


def test_cupy_works_on_torchs_stream_whatever_its_version() -> None:
    """Since CuPy 14 the address of a stream is deprecated; torch 2.11 has the protocol that replaces it."""
    stream = SimpleNamespace(cuda_stream=7, __cuda_stream__=lambda: (0, 7))
    external = {"ExternalStream": lambda address: ("address", address)}
    old = SimpleNamespace(cuda=SimpleNamespace(Stream=SimpleNamespace(), **external))
    by_protocol = SimpleNamespace(from_external=lambda made: ("protocol", made))
    new = SimpleNamespace(cuda=SimpleNamespace(Stream=by_protocol, **external))
    assert peers.on_stream(old, stream) == ("address", 7)
    assert peers.on_stream(new, stream) == ("protocol", stream)
    assert peers.on_stream(new, SimpleNamespace(cuda_stream=7)) == ("address", 7)


def test_the_plain_torch_quantiser_is_right_and_a_wrong_one_is_seen() -> None:
    torch = pytest.importorskip("torch")
    x = torch.randn(50, peers.BLOCK)
    residual, scales = torch.zeros_like(x), torch.empty(50, 1)
    codes = torch.empty_like(x, dtype=torch.int8)
    peers.quantise(x, residual, codes, scales)
    assert peers.wrong_quantiser(x, codes, scales, residual) == 0
    codes[3, 4] += 1
    assert peers.wrong_quantiser(x, codes, scales, residual) == 1
    x = np.float32([3, -1, 2, -3, 0])
    assert peers.wrong_topk(x, np.array([3, 0])) == 0 and peers.wrong_topk(x, np.array([0, 2])) == 1
    assert peers.wrong_topk(x, np.array([0, 0])) == 1


def test_a_bfloat16_is_the_cast_of_torch() -> None:
    torch = pytest.importorskip("torch")
    x = checks.waves(1000, 0)
    x = x[~np.isnan(x)]  # whose bits torch chooses by itself
    expected = torch.from_numpy(x).bfloat16().view(torch.uint8).numpy()
    np.testing.assert_array_equal(arrays.as_bytes(arrays.cast(x, "bfloat16")), expected)
    assert checks.has_kernels(gradwire.codec("int8"), arrays.Own())


@pytest.mark.parametrize(("code", "wrong"), [(0, 0), (1, 1), (verdicts.ERROR_CODE, 1), (3, None)])
def test_what_a_sanitizer_says_is_told_from_its_failing_to_start(code: int, wrong: int | None) -> None:
    command = [sys.executable, "-c", f"import sys; print('ERROR SUMMARY'); sys.exit({code})"]
    said = verdicts.verdict(command, 20)
    assert said["wrong"] == wrong and bool(said["skipped"]) == (wrong is None)
    asleep = [sys.executable, "-c", "import time; time.sleep(9)"]
    assert "not done" in verdicts.verdict(asleep, 0.2)["skipped"]
