"""Tensor-parallel layers on two ranks, against the same layers in one process."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from scene import Scene, raises
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import parallelize_module

import gradwire
from gradwire.torch import (
    ColumnParallelLinear,
    CompressedColwiseParallel,
    CompressedRowwiseParallel,
    RowParallelLinear,
    VocabParallelEmbedding,
    error_probe,
    mappings,
    sync_sequence_parallel_gradients,
    vocab_parallel_cross_entropy,
)

WIDTH, HIDDEN, ROWS = 64, 128, 8
# fp32 sums in another order: the layers' own matrix products are cut over the ranks
CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}
# One encode is off by at most this share of the block's largest magnitude (csrc/codec/quant.hpp).
STEP = {"int8": 2**-7 + 2**-8, "int4": 2**-3 + 2**-8}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class ParallelBlock(nn.Module):
    def __init__(self, whole: Block, codec: Any = None, sequence_parallel: bool = False) -> None:
        super().__init__()
        options = {"codec": codec, "sequence_parallel": sequence_parallel}
        self.norm = nn.LayerNorm(WIDTH)
        self.norm.load_state_dict(whole.norm.state_dict())
        if sequence_parallel:
            sync_sequence_parallel_gradients(self.norm)
        self.up = ColumnParallelLinear.from_linear(whole.up, **options)
        self.down = RowParallelLinear.from_linear(whole.down, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden, _ = self.up(self.norm(x))
        y, _ = self.down(F.gelu(hidden))
        return x + y


def same_input(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7), requires_grad=True)


def mine(scene: Scene, x: torch.Tensor, dim: int = 0) -> torch.Tensor:
    width = x.shape[dim] // scene.size
    return x.detach().narrow(dim, scene.rank * width, width)


def assert_everywhere_the_same(scene: Scene, *tensors: torch.Tensor) -> None:
    for t in tensors:
        others = [torch.empty_like(t) for _ in range(scene.size)]
        dist.all_gather(others, t.detach().contiguous())
        assert all(torch.equal(o, t) for o in others), "ranks hold different bits"


def assert_block_gradients(scene: Scene, whole: Block, part: Any) -> None:
    close = torch.testing.assert_close
    close(part.up.weight.grad, mine(scene, whole.up.weight.grad), **CLOSE)
    close(part.up.bias.grad, mine(scene, whole.up.bias.grad), **CLOSE)
    close(part.down.weight.grad, mine(scene, whole.down.weight.grad, 1), **CLOSE)
    close(part.down.bias.grad, whole.down.bias.grad, **CLOSE)
    close(part.norm.weight.grad, whole.norm.weight.grad, **CLOSE)


def check_a_block_without_codec_is_the_block_of_one_process(scene: Scene) -> None:
    whole = Block()
    part = ParallelBlock(whole)
    x, z = same_input(ROWS, WIDTH), same_input(ROWS, WIDTH)
    y, w = part(x), whole(z)
    torch.testing.assert_close(y, w, **CLOSE)
    y.square().sum().backward()
    w.square().sum().backward()
    torch.testing.assert_close(x.grad, z.grad, **CLOSE)
    assert_block_gradients(scene, whole, part)
    assert_everywhere_the_same(scene, y, x.grad)


def check_sequence_parallel_is_the_block_of_one_process(scene: Scene) -> None:
    whole = Block()
    part = ParallelBlock(whole, sequence_parallel=True)
    z = same_input(ROWS, WIDTH)
    x = mine(scene, z).clone().requires_grad_()
    y, w = part(x), whole(z)
    torch.testing.assert_close(y, mine(scene, w), **CLOSE)
    y.square().sum().backward()
    w.square().sum().backward()
    torch.testing.assert_close(x.grad, mine(scene, z.grad), **CLOSE)
    assert_block_gradients(scene, whole, part)


def check_coded_sums_stay_within_the_codecs_bound(scene: Scene) -> None:
    for codec, step in STEP.items():
        x = torch.randn(33, 65, generator=torch.Generator().manual_seed(scene.rank))
        y = mappings.reduce_from_tensor_model_parallel_region(x, codec=codec)
        exact = scene.sum(x)
        largest = torch.tensor([x.abs().max().item()])
        dist.all_reduce(largest)  # sum of the ranks' largest: bounds each encode's error, and the sum itself
        first = step * float(largest)  # every rank encodes its own term,
        second = step * (float(largest) + first)  # then the owner encodes the sum of what it received
        error = float((y.double() - exact).abs().max())
        assert 0 < error <= first + second, f"{codec}: {error} > {first + second}"
        assert_everywhere_the_same(scene, y)


def check_each_direction_has_its_own_codec(scene: Scene) -> None:
    def run(codec: Any) -> tuple[torch.Tensor, torch.Tensor]:
        x = same_input(ROWS, WIDTH)
        part = ParallelBlock(whole, codec)
        y = part(x)
        (y * direction).sum().backward()  # the gradient of y does not depend on y
        assert x.grad is not None
        return y.detach(), x.grad

    whole = Block()
    direction = same_input(ROWS, WIDTH).detach()
    exact, forward, backward = run(None), run(("int8", None)), run((None, "int8"))
    assert not torch.equal(forward[0], exact[0])
    assert torch.equal(backward[0], exact[0])
    assert not torch.equal(backward[1], exact[1])
    assert torch.equal(forward[1], exact[1])
    assert_everywhere_the_same(scene, *forward, *backward)


def check_16_bit_activations_pass(scene: Scene) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        whole = Block().to(dtype)
        part = ParallelBlock(whole, "int8").to(dtype)
        x = same_input(ROWS, WIDTH).to(dtype).detach().requires_grad_()
        y = part(x)
        y.float().square().sum().backward()
        assert y.dtype == x.grad.dtype == dtype
        assert_everywhere_the_same(scene, y.view(torch.uint8), x.grad.view(torch.uint8))
        error = (y.float() - whole(x).float()).norm() / y.float().norm()
        assert error < 0.05, error


def check_gather_and_scatter_undo_one_another(scene: Scene) -> None:
    x = same_input(3, 5, 8)
    there = mappings.scatter_to_tensor_model_parallel_region(x)
    assert torch.equal(there, mine(scene, x, 2))
    back = mappings.gather_from_tensor_model_parallel_region(there)
    assert torch.equal(back, x)
    (back * torch.arange(8.0)).sum().backward()
    torch.testing.assert_close(x.grad, torch.arange(8.0).expand(3, 5, 8).contiguous(), rtol=0, atol=0)
    x = same_input(4, 3)
    back = mappings.gather_from_sequence_parallel_region(mappings.scatter_to_sequence_parallel_region(x))
    assert torch.equal(back, x)


def check_a_vocabulary_is_cut_and_found_again(scene: Scene) -> None:
    vocabulary, width = 40, 16
    torch.manual_seed(3)
    whole = nn.Embedding(vocabulary, width)
    head = nn.Linear(width, vocabulary, bias=False)
    part = VocabParallelEmbedding(vocabulary, width, init_method=lambda w: w.copy_(whole.weight))
    out = ColumnParallelLinear.from_linear(head)
    tokens = torch.randint(0, vocabulary, (3, 6), generator=torch.Generator().manual_seed(1))
    target = torch.randint(0, vocabulary, (3, 6), generator=torch.Generator().manual_seed(2))
    assert torch.equal(part(tokens), whole(tokens))
    logits, _ = out(part(tokens))
    loss = vocab_parallel_cross_entropy(logits, target)
    want = F.cross_entropy(head(whole(tokens)).flatten(0, 1), target.flatten(), reduction="none").view(3, 6)
    torch.testing.assert_close(loss, want, **CLOSE)
    loss.mean().backward()
    want.mean().backward()
    torch.testing.assert_close(part.weight.grad, mine(scene, whole.weight.grad), **CLOSE)
    torch.testing.assert_close(out.weight.grad, mine(scene, head.weight.grad), **CLOSE)
    scattered = VocabParallelEmbedding(
        vocabulary, width, init_method=lambda w: w.copy_(whole.weight), reduce_scatter_embeddings=True
    )
    assert torch.equal(scattered(tokens), mine(scene, whole(tokens).transpose(0, 1)))


def check_the_probe_names_layers_and_errors(scene: Scene) -> None:
    part = ParallelBlock(Block(), ("int8", "int4"))
    x = same_input(ROWS, WIDTH)
    with error_probe(part) as report:
        for _ in range(2):
            part(x).sum().backward()
    rows = {(r.layer, r.direction): r for r in report.rows}
    assert rows.keys() == {("down", "forward"), ("up", "backward")}
    assert rows["down", "forward"].calls == 2
    assert 0 < rows["down", "forward"].error < 0.02 < rows["up", "backward"].error < 0.25
    assert "down" in str(report)
    assert not hasattr(part.up, "_gradwire_probe")


def check_compiled_layers_give_the_same_bits(scene: Scene) -> None:
    for sequence_parallel in (False, True):
        part = ParallelBlock(Block(), "int8", sequence_parallel)
        x = same_input(ROWS, WIDTH)
        part(x).square().sum().backward()
        eager, part.up.weight.grad = part.up.weight.grad, None
        torch._dynamo.reset()
        compiled = torch.compile(part, fullgraph=True, backend="aot_eager")
        y = compiled(x)
        y.square().sum().backward()
        assert torch.equal(y, part(x))
        assert torch.equal(part.up.weight.grad, eager)


def check_styles_follow_torchs_own(scene: Scene) -> None:
    mesh = init_device_mesh("cpu", (scene.size,))
    whole = Block()
    for sequence_parallel in (False, True):
        for codec, tolerance in ((None, CLOSE), ("int8", {"rtol": 0.1, "atol": 0.1})):
            part = Block()
            part.load_state_dict(whole.state_dict())
            options: dict[str, Any] = {"codec": codec, "sequence_parallel": sequence_parallel}
            plan = {"up": CompressedColwiseParallel(**options), "down": CompressedRowwiseParallel(**options)}
            if sequence_parallel:
                sync_sequence_parallel_gradients(part.norm)
            parallelize_module(part, mesh, plan)
            z = same_input(ROWS, WIDTH)
            whole.zero_grad()
            w = whole(z)
            w.square().sum().backward()
            x = (mine(scene, z) if sequence_parallel else z.detach()).clone().requires_grad_()
            y = part(x)
            y.square().sum().backward()
            want = (mine(scene, w), mine(scene, z.grad)) if sequence_parallel else (w, z.grad)
            torch.testing.assert_close(y, want[0], **tolerance)
            torch.testing.assert_close(x.grad, want[1], **tolerance)
            grad = part.up.weight.grad.to_local()
            torch.testing.assert_close(grad, mine(scene, whole.up.weight.grad), **tolerance)
            if codec is None:
                for name in ("weight", "bias"):
                    grad = getattr(part.down, name).grad.full_tensor()
                    torch.testing.assert_close(grad, getattr(whole.down, name).grad, **CLOSE)
            elif not sequence_parallel:
                assert_everywhere_the_same(scene, y, x.grad)


def check_compiled_styles_give_the_same_bits(scene: Scene) -> None:
    part = Block()
    parallelize_module(
        part,
        init_device_mesh("cpu", (scene.size,)),
        {"up": CompressedColwiseParallel(), "down": CompressedRowwiseParallel()},
    )
    x = same_input(ROWS, WIDTH)
    torch._dynamo.reset()
    compiled = torch.compile(part, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), part(x))


def check_what_cannot_be_cut_is_refused(scene: Scene) -> None:
    for make in (
        lambda: ColumnParallelLinear(8, 7),
        lambda: RowParallelLinear(7, 8),
        lambda: VocabParallelEmbedding(7, 8),
        lambda: RowParallelLinear(8, 8, codec="int9"),
        lambda: CompressedColwiseParallel(input_layouts=torch.distributed.tensor.Shard(0)),
        lambda: mappings.reduce_scatter_to_sequence_parallel_region(torch.ones(3, 2)),
    ):
        raises(gradwire.ArgumentError, make)
