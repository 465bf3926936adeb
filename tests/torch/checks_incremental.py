"""Chains of checkpoints on two ranks: of torch's distributed checkpoints, and of each rank's own shards."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from scene import MLP, Scene, raises, refused
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from gradwire.torch import (
    BrokenCheckpoint,
    IncrementalStorageReader,
    IncrementalStorageWriter,
    IncrementalWriter,
    load_incremental,
)


def sharded(seed: int = 0) -> tuple[Any, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = fully_shard(MLP(33, 47), mesh=init_device_mesh("cpu", (dist.get_world_size(),)))  # uneven shards
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2)


def step(scene: Scene, model: Any, optimizer: torch.optim.Optimizer, number: int) -> None:
    optimizer.zero_grad()
    model(scene.batch(number, (4, 33))).square().mean().backward()
    optimizer.step()


def leaves(state: Any) -> list[Any]:
    """In order; what a DTensor holds here."""
    if isinstance(state, dict):
        return list(itertools.chain.from_iterable(leaves(state[k]) for k in state))
    if isinstance(state, (list, tuple)):
        return list(itertools.chain.from_iterable(map(leaves, state)))
    return [state.to_local() if hasattr(state, "to_local") else state]


def copied(state: Any) -> list[Any]:
    return [x.clone() if isinstance(x, torch.Tensor) else x for x in leaves(state)]


def assert_same(got: Any, want: list[Any]) -> None:
    found = leaves(got)
    assert len(found) == len(want)
    for a, b in zip(found, want):
        assert torch.equal(a, b) if isinstance(b, torch.Tensor) else a == b


def state_of(model: Any, optimizer: Any, epoch: int) -> dict[str, Any]:
    weights, moments = get_state_dict(model, optimizer)
    return {"model": weights, "optimizer": moments, "epoch": epoch, "half": torch.full((3,), epoch).half()}


def check_every_step_of_a_distributed_chain_comes_back(scene: Scene) -> None:
    group = dist.new_group(backend="gloo")  # async_save talks while training does
    for save in (dcp.save, dcp.async_save):
        model, optimizer = sharded()
        writer, wanted, full = IncrementalStorageWriter(full_every=3), [], []
        root = scene.folder / f"chain-{save.__name__}"
        for number in range(5):
            step(scene, model, optimizer, number)
            state = state_of(model, optimizer, number)
            wanted.append(copied(state))
            where = {"checkpoint_id": root / str(number), "storage_writer": writer}
            pending: Any = save(state, **where, process_group=group)
            step(scene, model, optimizer, 100)  # what is saved must not change now
            if hasattr(pending, "result"):
                pending.result()
            assert writer.written is not None
            full.append(writer.written.full)
        assert full == [True, False, False, True, False]
        dist.barrier()
        for number in (1, 2, 4):
            again, other = sharded(seed=1)
            step(scene, again, other, 7)  # makes the optimizer's state
            state = state_of(again, other, -1)
            dcp.load(state, storage_reader=IncrementalStorageReader(root / str(number)))
            assert_same(state, wanted[number])
            set_state_dict(again, other, model_state_dict=state["model"], optim_state_dict=state["optimizer"])


def check_one_rank_reads_what_two_wrote(scene: Scene) -> None:
    model, optimizer = sharded()
    writer, root = IncrementalStorageWriter(), scene.folder / "two"
    for number in range(2):
        step(scene, model, optimizer, number)
        dcp.save({"model": model.state_dict()}, checkpoint_id=root / str(number), storage_writer=writer)
    whole = {name: p.full_tensor() for name, p in model.state_dict().items()}
    dist.barrier()
    alone = {"model": MLP(33, 47).state_dict()}
    dcp.load(alone, storage_reader=IncrementalStorageReader(root / "1"), no_dist=True)
    assert all(torch.equal(alone["model"][name], t) for name, t in whole.items())


def check_a_distributed_chain_that_broke_is_named(scene: Scene) -> None:
    writer, root = IncrementalStorageWriter(), scene.folder / "broken"
    state = {"x": torch.arange(100.0) + scene.rank, "note": "text"}
    for folder in ("a", "b", "b"):  # over the last one again: whole
        dcp.save(state, checkpoint_id=root / folder, storage_writer=writer)
    assert writer.written is not None and writer.written.full
    dcp.save(state, checkpoint_id=root / "c", storage_writer=writer)
    dist.barrier()
    got = {"x": torch.zeros(100), "note": ""}
    dcp.load(got, storage_reader=IncrementalStorageReader(root / "c"))
    assert got["note"] == "text" and torch.equal(got["x"], torch.arange(100.0))
    dist.barrier()
    if scene.rank == 0:
        (root / "b" / "__0.gwc").unlink()
    dist.barrier()
    error = raises(Exception, dcp.load, got, storage_reader=IncrementalStorageReader(root / "c"))
    assert BrokenCheckpoint.__name__ in str(error) or "cannot be read" in str(error), error


def check_each_rank_keeps_its_own_shards(scene: Scene) -> None:
    model, optimizer = sharded()
    folder = Path(scene.folder / f"own{scene.rank}")
    writer, wanted = IncrementalWriter(folder, full_every=2), []
    for number in range(3):
        step(scene, model, optimizer, number)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": number}
        wanted.append(copied(state))
        writer.save(number, state)
    again, other = sharded(seed=1)
    step(scene, again, other, 7)
    like = {"model": again.state_dict(), "optimizer": other.state_dict()}
    for number, want in enumerate(wanted):
        assert_same(load_incremental(folder, number), want)  # shards
        got = load_incremental(folder, number, like=like)
        assert_same(got, want)
        again.load_state_dict(got["model"])
        other.load_state_dict(got["optimizer"])
    # training goes on with the same bits
    for m, o in ((model, optimizer), (again, other)):
        step(scene, m, o, 9)
    assert_same(again.state_dict(), copied(model.state_dict()))
    refused("like= has Tensor", load_incremental, folder, like={"model": MLP(33, 47).state_dict()})
    theirs = scene.folder / f"own{1 - scene.rank}"
    dist.barrier()
    refused("was saved as a shard", load_incremental, theirs, like=like)
