"""Residuals loaded on another number of ranks; no process needed."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from gradwire import ArgumentError  # noqa: E402
from gradwire.torch.checkpoint import Checkpoint, clean_name  # noqa: E402
from gradwire.torch.residuals import Residuals  # noqa: E402


def rank_of(param: torch.Tensor, storage: str = "fp32") -> tuple[Checkpoint, Residuals]:
    residuals = Residuals(storage, {"w": param})
    return Checkpoint(residuals, named=True), residuals


@pytest.mark.parametrize("new_size", [1, 2, 3, 4, 7])
def test_what_residuals_add_to_the_average_survives_a_change_of_world_size(new_size: int) -> None:
    old_size, merged, total = 4, {}, torch.zeros(6)
    for rank in range(old_size):
        param = torch.zeros(2, 3)
        checkpoint, residuals = rank_of(param)
        residuals.write(param, torch.arange(6.0) + 10 * rank)
        total += residuals.read(param)
        merged.update(checkpoint.save(rank, old_size, step=9))

    again = torch.zeros(6)
    for rank in range(new_size):
        param = torch.zeros(2, 3)
        checkpoint, residuals = rank_of(param)
        assert checkpoint.load(merged, rank, new_size) == 9
        again += residuals.read(param)
    torch.testing.assert_close(again / new_size, total / old_size)


def test_a_state_of_other_ranks_alone_is_refused_and_changes_nothing() -> None:
    param = torch.zeros(2, 3)
    checkpoint, residuals = rank_of(param)
    residuals.write(param, torch.ones(6))
    state = checkpoint.save(0, 2, step=1)
    with pytest.raises(ArgumentError, match=r"rank1/w.*holds ranks 0"):
        checkpoint.load(state, 0, 1)
    assert residuals.read(param).tolist() == [1.0] * 6


def test_a_residual_of_another_size_is_refused() -> None:
    checkpoint, _ = rank_of(torch.zeros(2, 3))
    state = checkpoint.save(0, 1, step=1)
    state["rank0/w"] = torch.zeros(5)
    with pytest.raises(ArgumentError, match="5 elements, expected 6"):
        checkpoint.load(state, 0, 1)


def test_names_are_those_of_the_bare_model() -> None:
    for wrapped in ("a.b", "module.a.b", "_orig_mod.module.a.b", "module._orig_mod.a.b"):
        assert clean_name(wrapped) == "a.b"
