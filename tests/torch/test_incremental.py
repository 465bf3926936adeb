"""Chains of checkpoints come back bit for bit, or name the file that is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from gradwire import ArgumentError  # noqa: E402
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


DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int16, torch.uint8]
DTYPES += [torch.bool, torch.complex64, torch.float8_e4m3fn, torch.complex128]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_bits_of_any_dtype_come_back(dtype: torch.dtype, tmp_path: Path) -> None:
    """NaN payloads, denormals, whole and as changes, however many threads pack them."""
    size = dtype.itemsize
    random = torch.Generator().manual_seed(0)
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (300_001 * size,), generator=random)
    first = raw.to(torch.uint8).view(dtype)
    second = first.clone()
    second[::7] = second[1::7][: second[::7].numel()]
    strided = torch.stack([first[:600], second[:600]]).view(2, 20, 30).permute(2, 0, 1)
    writer = IncrementalWriter(tmp_path)
    for step, state in enumerate(({"x": first, "s": strided}, {"x": second, "s": strided.transpose(1, 2)})):
        writer.save(step, state)
        got = load_incremental(tmp_path, step)
        for name, t in state.items():
            assert got[name].dtype == dtype and got[name].shape == t.shape
            bits = got[name].contiguous().reshape(-1).view(torch.uint8)
            assert torch.equal(bits, t.contiguous().reshape(-1).view(torch.uint8)), name


def test_floats_of_16_bits_are_coded_as_such(tmp_path: Path) -> None:
    x = torch.randn(1 << 16, generator=torch.Generator().manual_seed(0))
    for dtype, bits in ((torch.bfloat16, 11.4), (torch.float16, 14.4)):  # as the codec "lossless" promises
        written = IncrementalWriter(tmp_path / str(dtype)).save(0, {"x": x.to(dtype)})
        assert written.bytes * 8 / x.numel() < bits + 0.25  # and 2 KiB around them


def test_states_of_models_and_optimizers_nest_as_they_like(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    writer = IncrementalWriter(tmp_path, full_every=2)
    for step in range(3):
        model(torch.randn(5, 3)).sum().backward()
        optimizer.step()
        schedule.step()
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "random": torch.get_rng_state(),
            "more": (1, None, "text", b"bytes", torch.bfloat16, [step, {7: torch.tensor(step)}], {}),
        }
        writer.save(step, state)
        got = load_incremental(tmp_path)
        again = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        again.load_state_dict(got["model"])
        torch.optim.AdamW(again.parameters()).load_state_dict(got["optimizer"])
        assert all(torch.equal(t, again.state_dict()[name]) for name, t in model.state_dict().items())
        kept, want = got["optimizer"]["state"], optimizer.state_dict()["state"]
        assert all(torch.equal(kept[i][k], want[i][k]) for i in want for k in want[i])
        assert got["optimizer"]["param_groups"] == optimizer.state_dict()["param_groups"]
        assert got["schedule"] == schedule.state_dict()
        assert torch.equal(got["random"], state["random"])
        assert got["more"][:5] == state["more"][:5] and got["more"][5][1][7] == step and got["more"][6] == {}


def test_what_it_cannot_keep_is_named(tmp_path: Path) -> None:
    writer = IncrementalWriter(tmp_path)
    with pytest.raises(ArgumentError, match=r"at \['a'\]\[1\] is object"):
        writer.save(0, {"a": [torch.ones(2), object()]})
    with pytest.raises(ArgumentError, match="dense"):
        writer.save(0, {"s": torch.eye(3).to_sparse()})
    writer.save(5, [torch.ones(2)])
    with pytest.raises(ArgumentError, match="steps must grow"):
        writer.save(5, [torch.ones(2)])
    with pytest.raises(ArgumentError, match="full_every"):
        IncrementalWriter(tmp_path, full_every=0)


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
