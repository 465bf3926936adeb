"""A policy by mesh axis on two ranks: who carries what, and what the table says."""

from __future__ import annotations

import copy
from typing import Any

import torch
from scene import MLP, Scene, assert_same, grads, refused
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

import gradwire
from gradwire.torch import Axis, ColumnParallelLinear, RowParallelLinear, communicator
from gradwire.torch.usage import Row, Table


def mesh(*names: str) -> Any:
    return init_device_mesh("cpu", (2, *[1] * (len(names) - 1)), mesh_dim_names=names)


def check_replicas_average_along_their_axis(scene: Scene) -> None:
    policy = gradwire.policy(mesh("dp", "tp"), dp={"*.bias": None, "*": "int8"})
    model = MLP()
    plain = copy.deepcopy(model)
    ddp = DistributedDataParallel(model, process_group=policy["dp"].group)
    handle = policy["dp"].attach(ddp)
    assert handle.comm is policy["dp"].comm and handle.comm.size == 2 and policy["tp"].comm.size == 1
    for step in range(3):
        ddp(scene.batch(step)).square().mean().backward()
    with gradwire.policy(mesh("dp"))["dp"].bucketer(plain.named_parameters()) as exact:
        for step in range(3):
            plain(scene.batch(step)).square().mean().backward()
            exact.wait()
    assert_same(
        {n: g for n, g in grads(plain).items() if n.endswith("bias")},
        {n: g for n, g in grads(model).items() if n.endswith("bias")},
    )
    (row,) = policy.table().rows
    assert (row.axis, row.ranks, row.codec, row.collective, row.calls) == (
        "dp", 2, "by parameter", "all_reduce", 3,
    )  # fmt: skip
    assert row.dense_bytes == 3 * 4 * sum(p.numel() for p in model.parameters())
    assert row.ratio > 2 and row.exposed_s > 0
    policy.close()


def check_layers_are_counted_by_collective_and_codec(scene: Scene) -> None:
    policy = gradwire.policy(mesh("tp"), tp=("int8", None))
    torch.manual_seed(0)
    up = ColumnParallelLinear(32, 64, **policy["tp"].layers)
    down = RowParallelLinear(64, 32, **policy["tp"].layers)
    x = torch.ones(128, 32, requires_grad=True)
    for _ in range(3):
        down(up(x)[0])[0].sum().backward()
    rows = {r.codec: r for r in policy.table().rows}
    assert rows.keys() == {"int8(block=128)", "none"}
    for r in rows.values():
        assert (r.axis, r.collective, r.calls, r.dense_bytes) == ("tp", "all_reduce", 3, 3 * 4 * 128 * 32)
        assert r.exposed_s > 0
    assert rows["int8(block=128)"].ratio > 3
    assert 0.9 < rows["none"].ratio < 1.1
    policy.close()


def check_an_axis_has_its_own_algorithm_and_settings(scene: Scene) -> None:
    policy = gradwire.policy(mesh("tp"), tp=Axis("int8", algorithm="no such", settings={"transport": "tcp"}))
    assert policy["tp"].comm.peers()[1 - scene.rank][0] == "tcp"
    assert communicator(policy["tp"].group) is policy["tp"].comm
    layer = RowParallelLinear(64, 32, **policy["tp"].layers)
    refused("no such", layer, torch.ones(2, 32))
    policy.close()


def check_an_axis_that_the_mesh_does_not_have_is_refused(scene: Scene) -> None:
    refused("no axis ep; its axes are dp", lambda: gradwire.policy(mesh("dp"), ep="int8"))
    refused("mesh_dim_names", lambda: gradwire.policy(init_device_mesh("cpu", (2,))))
    policy = gradwire.policy(mesh("dp"))
    refused("the mesh has dp", lambda: policy["tp"])
    policy.close()


def check_the_table_prints(scene: Scene) -> None:
    text = str(Table([Row("dp", 2, "int8(block=128)", "all_reduce", 3, 12_000_000, 3_000_000, 0.25)]))
    head, line = text.splitlines()
    assert " ".join(head.split()) == "axis ranks codec collective calls dense MB sent MB ratio exposed s"
    assert " ".join(line.split()) == "dp 2 int8(block=128) all_reduce 3 12.000 3.000 4.00 0.250"
