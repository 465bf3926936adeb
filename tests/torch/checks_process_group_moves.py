"""What moves values on the "gradwire" backend: rooted, gathered, all to all, objects, point to point."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from process_groups import ALL_DTYPES, GLOO_DTYPES, Op, gloo, ints, ints_of, layouts, same
from scene import Scene, raises

BACKEND = "gradwire"


def check_rooted_collectives(scene: Scene) -> None:
    for root in range(scene.size):
        for dtype in ALL_DTYPES:
            for i, x in enumerate(layouts(ints(scene, dtype=dtype, seed=root))):
                source = list(layouts(ints_of(root, dtype=dtype, seed=root)))
                dist.broadcast(x, src=root)
                same(x, source[i])
        for dtype in GLOO_DTYPES:
            for op in (Op.SUM, Op.MAX):
                x = ints(scene, dtype=dtype)
                mine, want = x.clone(), x.clone()
                dist.reduce(x, root, op)
                dist.reduce(want, root, op, group=gloo())
                same(x, want if scene.rank == root else mine)
        for dtype in ALL_DTYPES:
            x = ints(scene, dtype=dtype)
            parts = [torch.zeros_like(x) for _ in range(scene.size)] if scene.rank == root else None
            dist.gather(x.t(), None if parts is None else [p.t() for p in parts], dst=root)
            if parts is not None:
                same(parts, [ints_of(r, dtype=dtype) for r in range(scene.size)])
            out = torch.zeros_like(x)
            dist.scatter(out, parts, src=root)
            same(out, x)


def check_all_gather(scene: Scene) -> None:
    n = scene.size
    for dtype in ALL_DTYPES:
        of = [ints_of(r, dtype=dtype) for r in range(n)]
        x = of[scene.rank]
        outs = [torch.zeros_like(x) for _ in range(n)]
        dist.all_gather(outs, x)
        same(outs, of)
        outs = [torch.zeros(3, 5, dtype=dtype).t() for _ in range(n)]
        dist.all_gather(outs, x.t().contiguous().t())
        same(outs, of)
        flat = torch.zeros(n * 5, 3, dtype=dtype)
        dist.all_gather_into_tensor(flat, x)
        same(flat, torch.cat(of))
        stacked = torch.zeros(n, 5, 3, dtype=dtype)
        dist.all_gather_into_tensor(stacked, x)
        same(stacked, torch.stack(of))
        inside = torch.zeros(n * 5, 3, dtype=dtype)
        own = inside[5 * scene.rank : 5 * scene.rank + 5]
        own.copy_(x)
        dist.all_gather_into_tensor(inside, own)  # in place, as FSDP does
        same(inside, torch.cat(of))
        moved = torch.zeros(n * 5, 3, dtype=dtype)
        other = moved[:5] if scene.rank else moved[5 * n - 5 :]
        other.copy_(x)
        dist.all_gather_into_tensor(moved, other)  # overlaps elsewhere
        same(moved, torch.cat(of))
    uneven = [torch.zeros(r + 1) for r in range(n)]
    dist.all_gather(uneven, torch.full((scene.rank + 1,), float(scene.rank)))
    same(uneven, [torch.full((r + 1,), float(r)) for r in range(n)])
    lists = [[torch.zeros(2), torch.zeros(3)] for _ in range(n)]
    want = [[torch.full((2,), float(r)), torch.full((3,), 10.0 + r)] for r in range(n)]
    dist.all_gather_coalesced(lists, want[scene.rank])
    same(lists, want)


def check_all_to_all(scene: Scene) -> None:
    n, me = scene.size, scene.rank
    for dtype in ALL_DTYPES:
        x = torch.arange(n * 2).view(n, 2).add(10 * me).remainder(7).to(dtype)
        out = torch.zeros_like(x)
        dist.all_to_all_single(out, x)
        rows = [torch.arange(n * 2).view(n, 2).add(10 * r).remainder(7)[me] for r in range(n)]
        same(out, torch.stack(rows).to(dtype))
        # rank s sends s + r rows to rank r
        rows = [torch.full((me + r, 2), 10 * me + r).remainder(7).to(dtype) for r in range(n)]
        got = [torch.zeros(me + s, 2, dtype=dtype) for s in range(n)]
        want = [torch.full((me + s, 2), 10 * s + me).remainder(7).to(dtype) for s in range(n)]
        dist.all_to_all(got, rows)
        same(got, want)
        splits = [me + r for r in range(n)]
        flat = torch.zeros(sum(splits), 2, dtype=dtype)
        dist.all_to_all_single(flat, torch.cat(rows), splits, splits)
        same(flat, torch.cat(want))
        strided = torch.zeros(2, flat.shape[0], dtype=dtype).t()
        dist.all_to_all_single(strided, torch.cat(rows).t().contiguous().t(), splits, splits)
        same(strided, torch.cat(want))
    raises(ValueError, dist.all_to_all_single, torch.zeros(n), torch.zeros(n), [1] * n, [2] * n)


def check_objects(scene: Scene) -> None:
    n, me = scene.size, scene.rank
    mine = {"rank": me, "data": [me] * (100 * me + 1)}
    everyone = [{"rank": r, "data": [r] * (100 * r + 1)} for r in range(n)]
    got: list[Any] = [None] * n
    dist.all_gather_object(got, mine)
    assert got == everyone
    got = [None] * n
    dist.gather_object(mine, got if me == n - 1 else None, dst=n - 1)
    assert me != n - 1 or got == everyone
    box: list[Any] = [mine]
    dist.broadcast_object_list(box, src=n - 1)
    assert box == [everyone[n - 1]]
    box = [None]
    dist.scatter_object_list(box, everyone if me == 0 else None, src=0)
    assert box == [mine]
    if n > 1 and me < 2:
        box = [mine]
        dist.send_object_list(box, 1) if me == 0 else dist.recv_object_list(box, 0)
        assert box == [everyone[0]]


def check_point_to_point(scene: Scene) -> None:
    n, me = scene.size, scene.rank
    if n == 1:
        return
    right, left = (me + 1) % n, (me - 1) % n
    for dtype in ALL_DTYPES:
        x, y = ints(scene, dtype=dtype), torch.zeros(3, 5, dtype=dtype).t()
        request = dist.isend(x.t().contiguous().t(), right)
        dist.recv(y, left)
        request.wait()
        same(y, ints_of(left, dtype=dtype))
    # tags arrive in any order
    sends = [dist.isend(torch.full((2,), float(tag)), right, tag=tag) for tag in (3, 4)]
    got = torch.zeros(2), torch.zeros(2)
    dist.recv(got[1], left, tag=4)
    dist.recv(got[0], left, tag=3)
    same(got, [torch.full((2,), 3.0), torch.full((2,), 4.0)])
    for request in sends:
        request.wait()
    if me == 0:
        seen = set()
        for _ in range(n - 1):
            x = torch.zeros(1)
            source = dist.recv(x)  # from anybody
            assert x.item() == source
            seen.add(source)
        assert seen == set(range(1, n))
    else:
        dist.send(torch.tensor([float(me)]), 0)
    dist.barrier()  # what follows is for nobody but its receiver
    y = torch.zeros(4)
    batch = [dist.P2POp(dist.isend, torch.full((4,), float(me)), right), dist.P2POp(dist.irecv, y, left)]
    for request in dist.batch_isend_irecv(batch):
        request.wait()
    same(y, torch.full((4,), float(left)))
