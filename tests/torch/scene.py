"""What the checks share: models, a plain DDP beside the hooked one, and the conservation law."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gradwire
import gradwire.torch

Grads = dict[str, "torch.Tensor | None"]


@dataclass
class Scene:
    rank: int
    size: int
    comm: Any
    folder: Path

    def ddp(
        self, model: nn.Module, codec: Any = "int8", ddp: dict[str, Any] | None = None, **hook: Any
    ) -> Any:
        """(hooked model, its handle), on the shared communicator."""
        wrapped = DistributedDataParallel(model, **(ddp or {}))
        return wrapped, gradwire.torch.attach(wrapped, codec, comm=self.comm, **{"min_numel": 64, **hook})

    def batch(self, step: int, shape: tuple[int, ...] = (4, 32)) -> torch.Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(100 * step + self.rank))

    def sum(self, x: torch.Tensor) -> torch.Tensor:
        x = x.double().clone()
        dist.all_reduce(x)
        return x

    def same_everywhere(self, model: nn.Module) -> None:
        hashes: list[Any] = [None] * self.size
        dist.all_gather_object(hashes, digest(model))
        assert len(set(hashes)) == 1, f"replicas differ: {hashes}"


class MLP(nn.Module):
    def __init__(self, width: int = 32, hidden: int = 48, layers: int = 3) -> None:
        super().__init__()
        sizes = [width] + [hidden] * (layers - 1) + [width]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


def raises(kind: type[BaseException], call: Callable[..., Any], *args: Any, **kw: Any) -> BaseException:
    try:
        call(*args, **kw)
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def refused(word: str, call: Callable[..., Any], *args: Any, **kw: Any) -> None:
    """With an ArgumentError that says `word`."""
    error = raises(gradwire.ArgumentError, call, *args, **kw)
    assert word in str(error), error


def digest(model: nn.Module) -> str:
    h = hashlib.sha256()
    for p in model.parameters():
        h.update(p.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return h.hexdigest()


def grads(model: nn.Module) -> Grads:
    return {n: None if p.grad is None else p.grad.detach().clone() for n, p in model.named_parameters()}


def assert_same(a: Grads, b: Grads) -> None:
    """Bitwise, and None where the other has None."""
    assert a.keys() == b.keys()
    for name in a:
        x, y = a[name], b[name]
        assert (x is None) == (y is None), f"{name}: {x} against {y}"
        if x is not None and y is not None:
            x, y = (t.to_dense() if t.is_sparse else t for t in (x, y))
            assert torch.equal(x, y), f"{name} differs by {(x - y).abs().max()}"


def assert_matches_plain(
    scene: Scene, model: nn.Module, loss: Callable[[Any, int], torch.Tensor], steps: int = 4, **ddp: Any
) -> None:
    """codec=None through the hook gives what DDP alone gives, bit for bit (two ranks: one order of
    adding)."""
    plain = DistributedDataParallel(copy.deepcopy(model), **ddp)
    hooked, handle = scene.ddp(model, None, ddp)
    for step in range(steps):
        for m in (plain, hooked):
            m.zero_grad()
            loss(m, step).backward()
        assert_same(grads(plain.module), grads(hooked.module))
    handle.close()


def assert_conserves(
    scene: Scene,
    model: nn.Module,
    loss: Callable[[Any, int], torch.Tensor],
    *,
    steps: int = 5,
    codec: Any = "int4",
    ddp: dict[str, Any] | None = None,
    middle: Callable[[Any, int], Any] | None = None,
) -> Any:
    """Sum of all local gradients == ranks * sum of what was received + residuals: nothing is lost, nothing is
    sent twice, nothing lands in another parameter. Local gradients come from a copy that never communicates.
    """
    local = copy.deepcopy(model)
    hooked, handle = scene.ddp(model, codec, ddp)
    produced = {n: torch.zeros(p.shape, dtype=torch.float64) for n, p in local.named_parameters()}
    received = copy.deepcopy(produced)
    for step in range(steps):
        for m in (local, hooked):
            m.zero_grad()
            loss(m, step).backward()
        for n, g in grads(local).items():
            produced[n] += 0 if g is None else g
        for n, g in grads(hooked.module).items():
            received[n] += 0 if g is None else g
        if middle is not None:
            handle = middle(handle, step) or handle
    check_sums(scene, produced, received, hooked.module, handle)
    return handle


def check_sums(scene: Scene, produced: Any, received: Any, model: nn.Module, handle: Any) -> None:
    lossy = 0.0
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        # the flat order of a bucket is the parameter's memory order
        flat = handle.state.residuals.read(p)
        residual = torch.empty_like(p, dtype=torch.float32)
        residual.as_strided((p.numel(),), (1,)).copy_(flat)
        want, left = scene.sum(produced[name]), scene.sum(residual)
        got = scene.size * received[name] + left
        error = float((want - got).abs().max() / want.abs().max().clamp(min=1e-3))
        assert error < 2e-5, f"{name}: {error} of the gradients' sum is gone"
        lossy = max(lossy, float(left.abs().max()))
    assert lossy > 0, "the codec lost nothing: this check checked nothing"
