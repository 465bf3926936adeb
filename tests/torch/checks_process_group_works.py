"""Works of the "gradwire" backend: asynchronous, coalesced, and as functional collectives give them."""

from __future__ import annotations

import torch
import torch.distributed as dist
from process_groups import same
from scene import Scene

BACKEND = "gradwire"


def check_asynchronous_works(scene: Scene) -> None:
    n = scene.size
    total = float(sum(range(n)))
    xs = [torch.full((7,), float(scene.rank)) for _ in range(20)]
    works = [dist.all_reduce(x, async_op=True) for x in xs]
    for work in reversed(works):
        assert work.wait() and work.is_completed() and work.is_success() and work.exception() is None
    same(xs, [torch.full((7,), total)] * 20)
    x = torch.full((7,), scene.rank, dtype=torch.int16)
    work = dist.all_reduce(x, async_op=True)
    (value,) = work.get_future().then(lambda f: [f.value()[0] * 2]).wait()
    same(value, torch.full((7,), 2 * int(total), dtype=torch.int16))
    same(work.result()[0], torch.full((7,), int(total), dtype=torch.int16))
    out = torch.zeros(7 * n)
    (got,) = dist.all_gather_into_tensor(out, torch.ones(7), async_op=True).get_future().wait()
    same(got, torch.ones(7 * n))
    assert dist.barrier(async_op=True).wait()


def check_coalesced(scene: Scene) -> None:
    n = scene.size
    sizes = [1, 5, 3000]
    total = float(sum(range(n)))
    xs = [torch.full((s,), float(scene.rank)) for s in sizes]
    dist.all_reduce_coalesced(xs)
    same(xs, [torch.full((s,), total) for s in sizes])
    for asynchronous in (False, True):
        xs = [torch.full((s,), float(scene.rank)) for s in sizes]
        with dist._coalescing_manager(async_ops=asynchronous) as manager:
            for x in xs:
                dist.all_reduce(x)
        if asynchronous:
            manager.wait()
        same(xs, [torch.full((s,), total) for s in sizes])
    outs = [torch.zeros(s * n) for s in sizes]
    with dist._coalescing_manager(async_ops=True) as manager:
        for out, s in zip(outs, sizes):
            dist.all_gather_into_tensor(out, torch.full((s,), float(scene.rank)))
    manager.wait()
    same(outs, [torch.arange(n).float().repeat_interleave(s) for s in sizes])
    outs = [torch.zeros(s) for s in sizes]
    with dist._coalescing_manager():
        for out, s in zip(outs, sizes):
            dist.reduce_scatter_tensor(out, torch.arange(n).float().repeat_interleave(s))
    same(outs, [torch.full((s,), float(n * scene.rank)) for s in sizes])
    xs = [torch.full((s,), float(scene.rank)) for s in sizes]
    with dist._coalescing_manager(device=torch.device("cpu"), async_ops=True) as manager:  # the old style
        for x in xs:
            dist.broadcast(x, src=n - 1)
    manager.wait()
    same(xs, [torch.full((s,), float(n - 1)) for s in sizes])


def check_functional_collectives(scene: Scene) -> None:
    import torch.distributed._functional_collectives as funcol

    n, me, group = scene.size, scene.rank, dist.group.WORLD
    x = torch.arange(2.0 * n) + me
    total = torch.arange(2.0 * n) * n + sum(range(n))
    same(funcol.all_reduce(x, "sum", group) + 0, total)
    same(funcol.all_reduce(x * n, "avg", group) + 0, total)
    same(funcol.all_gather_tensor(x, 0, group) + 0, torch.cat([torch.arange(2.0 * n) + r for r in range(n)]))
    same(funcol.reduce_scatter_tensor(x, "sum", 0, group) + 0, total[2 * me : 2 * me + 2])
    same(funcol.broadcast(x, n - 1, group) + 0, torch.arange(2.0 * n) + n - 1)
    got = funcol.all_to_all_single(x, [2] * n, [2] * n, group) + 0
    same(got, torch.cat([torch.arange(2.0) + 2 * me + r for r in range(n)]))
    same([t + 0 for t in funcol.all_reduce_coalesced([x, x + 1], "sum", group)], [total, total + n])
    gathered = funcol.all_gather_into_tensor_coalesced([x[:1], x[:2]], group)
    same(gathered[0] + 0, torch.arange(float(n)))
    scattered = funcol.reduce_scatter_tensor_coalesced([x], "sum", [0], group)
    same(scattered[0] + 0, total[2 * me : 2 * me + 2])
