"""Chains of checkpoints come back bit for bit, or name the file that is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from gradwire.torch import BrokenCheckpoint, IncrementalWriter, load_incremental  # noqa: E402


def states(count: int) -> list[dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    kept = {
        "w": torch.randn(513, 70),
        "b": torch.randn(5).bfloat16(),
        "n": torch.tensor(3),
        "e": torch.empty(0),
    }
    kept["odd"] = torch.tensor([float("nan"), -0.0, 1e-42])
    made = []
    for i in range(count):
        kept = {**kept, "w": kept["w"] + 1e-3 * torch.randn(513, 70), "n": kept["n"] + i}
        made.append(kept)
    return made


def test_every_step_of_a_chain_comes_back_bit_for_bit(tmp_path: Path) -> None:
    writer = IncrementalWriter(tmp_path, full_every=3)
    made = states(7)
    written = [writer.save(i, s) for i, s in enumerate(made)]
    assert [w.full for w in written] == [True, False, False, True, False, False, True]
    for i, want in enumerate(made):
        got = load_incremental(tmp_path, i)
        assert got.keys() == want.keys()
        for name, t in want.items():
            assert got[name].dtype == t.dtype and got[name].shape == t.shape
            assert torch.equal(got[name].reshape(-1).view(torch.uint8), t.reshape(-1).view(torch.uint8))
    assert load_incremental(tmp_path)["n"] == made[-1]["n"]
    assert written[1].bytes < written[0].bytes


def test_a_broken_or_missing_file_is_named(tmp_path: Path) -> None:
    writer = IncrementalWriter(tmp_path)
    paths = [writer.save(i, s).path for i, s in enumerate(states(3))]
    good = paths[1].read_bytes()
    for bad in (good[:-1], good[:100] + bytes([good[100] ^ 1]) + good[101:], b"", paths[0].read_bytes()):
        paths[1].write_bytes(bad)
        with pytest.raises(BrokenCheckpoint) as caught:
            load_incremental(tmp_path, 2)
        assert caught.value.path == paths[1]
    paths[1].unlink()
    with pytest.raises(BrokenCheckpoint) as caught:
        load_incremental(tmp_path, 2)
    assert caught.value.path == paths[1]
