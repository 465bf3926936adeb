"""What the rows of the parity matrix share: the model, and how far a coded result may be off.

Without a codec a row equals torch's own result. With one it stays within a bound that follows from the
codec's definition alone: one encode moves a value by at most `STEP` of the largest magnitude in its block
(csrc/codec/quant.hpp), and the bound carries that through sums, averages and matrix products.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

WIDTH, HIDDEN, ROWS = 64, 96, 8
STEP = {"none": 0.0, "int8": 2**-7 + 2**-8, "int4": 2**-3 + 2**-8}
# rounding of one value that was summed in another order, as a share of the largest term
ROUNDING = {"float32": 2**-18, "bfloat16": 2**-7}


def codec_of(name: str) -> str | None:
    return None if name == "none" else name


class Linears(nn.Module):
    """Two linear maps. Without a nonlinearity a bound on the input's error is one on the output's."""

    def __init__(self, seed: int = 0, dtype: str = "float32") -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.up, self.down = nn.Linear(WIDTH, HIDDEN, bias=False), nn.Linear(HIDDEN, WIDTH, bias=False)
        self.to(getattr(torch, dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.up(x))


class Model(nn.Module):
    """For data parallelism, where anything goes."""

    def __init__(self, dtype: str) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.blocks = nn.ModuleList(Linears(i) for i in range(2))
        self.norm = nn.LayerNorm(WIDTH)
        self.to(getattr(torch, dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        return self.norm(x)


def sharded(model: Model, mesh: Any) -> Any:
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def draw(seed: int, dtype: str, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(getattr(torch, dtype))


def backward(model: Any, rank: int, dtype: str) -> None:
    """A large loss: DDP halves gradients before it adds them, which costs subnormals their last bit."""
    out = model(draw(rank, dtype, ROWS, WIDTH))
    (out * draw(100 + rank, dtype, ROWS, WIDTH)).float().sum().mul(16).backward()


def largest(tensors: Iterable[torch.Tensor]) -> float:
    """Over all ranks."""
    most = torch.tensor(max(float(t.detach().abs().max()) for t in tensors))
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    return float(most)


def average_is_off_by(most: float, step: float) -> float:
    """Of a coded average, or of one term's share of a coded sum, of values of at most `most`: every term is
    encoded once (step * most), then what came out of it once more (step * (1 + step) * most)."""
    return most * step * (2 + step)


def assert_within(got: torch.Tensor, want: torch.Tensor, bound: float | torch.Tensor, what: str) -> None:
    error = (got.double() - want.double()).abs()
    over = (error - bound).max()
    assert over <= 0, f"{what}: off by {error.max()}, the bound is {torch.as_tensor(bound).max()}"


def assert_bitwise(got: torch.Tensor, want: torch.Tensor, what: str) -> None:
    assert torch.equal(got, want), f"{what}: off by {(got.double() - want.double()).abs().max()}"


def assert_averages(
    model: nn.Module, reference: nn.Module, codec: str, dtype: str, *, levels: int = 1
) -> None:
    """Gradients of `model` are those of `reference` bit for bit, or within the bound of `levels` coded
    averages of what each rank computes alone."""
    alone = Model(dtype)
    backward(alone, dist.get_rank(), dtype)
    most = largest(p.grad for p in alone.parameters())
    bound, carried = 0.0, most
    for _ in range(levels):
        more = average_is_off_by(carried, STEP[codec])
        bound, carried = bound + more, carried + more
    bound += ROUNDING[dtype] * most
    lost = 0.0
    for (name, p), q in zip(model.named_parameters(), reference.parameters()):
        got, want = whole(p.grad), whole(q.grad)
        if codec == "none" and levels == 1:
            assert_bitwise(got, want, name)
        else:
            assert_within(got, want, bound if codec != "none" else 1e-6 * most + bound, name)
            lost = max(lost, float((got - want).abs().max()))
    assert codec == "none" or lost > 0, "nothing was lost: was the codec used?"


def whole(x: Any) -> torch.Tensor:
    return x.full_tensor() if hasattr(x, "full_tensor") else x


@dataclass
class Ball:
    """A tensor in float64, and how far the coded one may be from it, element by element."""

    value: torch.Tensor
    radius: torch.Tensor

    @staticmethod
    def exact(x: torch.Tensor) -> Ball:
        return Ball(x.double(), torch.zeros_like(x, dtype=torch.float64))

    @property
    def most(self) -> float:
        return float((self.value.abs() + self.radius).max())

    def encoded(self, step: float) -> Ball:
        return Ball(self.value, self.radius + step * self.most)

    def times(self, weight: Ball) -> Ball:
        """x W, both known only so well."""
        a, b = self.value.abs(), weight.value.abs()
        radius = a @ weight.radius + self.radius @ (b + weight.radius)
        return Ball(self.value @ weight.value, radius)

    @property
    def mT(self) -> Ball:
        return Ball(self.value.mT, self.radius.mT)

    @staticmethod
    def coded_sum(terms: list[Ball], step: float) -> Ball:
        off = len(terms) * average_is_off_by(max(t.most for t in terms), step)
        return Ball(sum(t.value for t in terms), sum(t.radius for t in terms) + off)

    def assert_holds(self, got: torch.Tensor, dtype: str, what: str) -> None:
        assert_within(got, self.value, self.radius + 4 * ROUNDING[dtype] * self.most, what)
