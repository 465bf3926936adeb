"""torch's distributed checkpoints as chains: what each rank writes is what changed since it wrote last.

torch's planners say which rank writes and reads which part of which tensor; only the files are ours. So
nested states, DTensors, `async_save` and loading on another mesh or number of ranks are torch's own.
"""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, SavePlan, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from . import chain
from .chain import BrokenCheckpoint, Chain


class IncrementalStorageWriter(FileSystemWriter):
    """A storage_writer for `torch.distributed.checkpoint.save` and `async_save` (of threads).

    One object for all saves, on every rank: it keeps a copy of what the rank wrote last. Each save has a
    folder of its own, its checkpoint_id; a checkpoint needs the folders of its chain, back to a whole one, at
    the same places relative to it. Saving over the last folder writes it whole. full_every: so many saves
    form a chain.

    >>> writer = gradwire.torch.IncrementalStorageWriter(full_every=20)                 # doctest: +SKIP
    >>> dcp.save(state, checkpoint_id=f"run/{step}", storage_writer=writer)             # doctest: +SKIP
    >>> reader = gradwire.torch.IncrementalStorageReader(f"run/{step}")                 # doctest: +SKIP
    >>> dcp.load(state, storage_reader=reader)                                          # doctest: +SKIP
    """

    def __init__(self, path: str | os.PathLike[str] = ".", full_every: int = 10) -> None:
        super().__init__(path)
        self._chain = Chain(full_every)
        self.written: chain.Written | None = None  # the last file

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        plan = super().prepare_local_plan(plan)
        # without collectives nobody calls prepare_global_plan
        return plan if plan.storage_data is None else replace(plan, storage_data=_file(self.rank))

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return [replace(p, storage_data=p.storage_data or _file(rank)) for rank, p in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: Any) -> Future[list[WriteResult]]:
        file = plan.storage_data
        tensors = {}
        for item in plan.items:
            data = planner.resolve_data(item)
            if item.type == WriteItemType.BYTE_IO:
                data = torch.frombuffer(bytearray(data.getvalue()), dtype=torch.uint8)
            tensors[_name(item.index)] = data
        self.written = self._chain.write(Path(self.path) / file, tensors)
        done: Future[list[WriteResult]] = Future()
        done.set_result([WriteResult(i.index, tensors[_name(i.index)].nbytes, file) for i in plan.items])
        return done


class IncrementalStorageReader(FileSystemReader):
    """A storage_reader for `torch.distributed.checkpoint.load` of what `IncrementalStorageWriter` wrote.

    path: the checkpoint's folder. BrokenCheckpoint names a file of its chain that is missing or damaged.

    >>> dcp.load(state, storage_reader=gradwire.torch.IncrementalStorageReader("run/300"))  # doctest: +SKIP
    """

    def read_data(self, plan: LoadPlan, planner: Any) -> Future[None]:
        items: dict[str, list[Any]] = {}
        for item in plan.items:
            items.setdefault(self.storage_data[item.storage_index], []).append(item)
        for file, wanted in items.items():
            if not isinstance(file, str):
                raise BrokenCheckpoint(Path(self.path), "it was not written by an IncrementalStorageWriter")
            names = {_name(item.storage_index) for item in wanted}
            tensors, _ = chain.read(Path(self.path) / file, names.__contains__)
            for item in wanted:
                _hand_over(item, tensors[_name(item.storage_index)], planner)
        done: Future[None] = Future()
        done.set_result(None)
        return done


def _hand_over(item: Any, found: torch.Tensor, planner: Any) -> None:
    if item.type == LoadItemType.BYTE_IO:
        planner.load_bytes(item, io.BytesIO(found.numpy().tobytes()))
        return
    for dim, (begin, length) in enumerate(zip(item.storage_offsets, item.lengths)):
        found = found.narrow(dim, begin, length)
    target = planner.resolve_tensor(item).detach()
    target.copy_(found)
    planner.commit_tensor(item, target)


def _file(rank: Any) -> str:
    return f"__{rank}.gwc"


def _name(index: Any) -> str:
    """Of one tensor's part, or of an object."""
    return f"{index.fqn} {tuple(index.offset)}" if index.offset is not None else str(index.fqn)
