"""FSDP's residuals in and out of a checkpoint, by parameter and rank.

    rank{r}/{parameter}           what rank r's reduce-scatters lost: the whole parameter
    rank{r}/replicas/{parameter}  what its all-reduces over the replicas lost: zero outside its shard
    world_size, steps, mesh       one number; a number a module; (replicas, shards, operator) a module

In units: a reduce-scatter's residual is of this rank's gradient, an all-reduce's of the shard group's average
(or sum). A checkpoint of the same mesh loads as it was. Another mesh, or number of ranks, gets the same sum:
old rank r's losses go to new rank r % size, those over the replicas among what the reduce-scatter owes.
Where parameters are also cut along other axes (tensor parallelism), a rank's losses are of its own part, and
only the same mesh takes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from gradwire.errors import ArgumentError

from .fsdp_comms import Sums
from .fsdp_layout import Layout

_KINDS = ("", "replicas/")  # prefixes of the residuals' names
_OPERATORS = ("avg", "sum", "scaled sum")
State = Mapping[str, torch.Tensor]


@dataclass
class Unit:
    """One fully_shard module. row: this rank's place in the shard group. scatter, reduce: its sums over the
    shard group and over the replicas, where there are such."""

    name: str
    layout: Layout
    row: int = 0
    replica: int = 0
    replicas: int = 1
    scatter: Sums | None = None
    reduce: Sums | None = None

    def sums(self) -> Iterator[Sums]:
        yield from (s for s in (self.scatter, self.reduce) if s is not None)

    def owing(self) -> Iterator[tuple[str, Sums]]:
        """Those that keep a residual, by the prefix of its keys."""
        for kind, sums in zip(_KINDS, (self.scatter, self.reduce)):
            if sums is not None and sums.feedback is not None and self.layout.pieces:
                yield kind, sums

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.owing()]

    def step(self) -> int:
        return max((s.step for s in self.sums()), default=0)

    def parts(self, size: int) -> int:
        """Along axes of which FSDP knows nothing."""
        return size // (self.replicas * self.layout.ranks)

    def mesh(self) -> list[int]:
        operators = [s.operator for s in self.sums()]
        return [self.replicas, self.layout.ranks, _OPERATORS.index(operators[0] if operators else "avg")]


def save(units: Sequence[Unit], rank: int, size: int) -> dict[str, torch.Tensor]:
    state = {
        "world_size": torch.tensor(size),
        "steps": torch.tensor([u.step() for u in units]),
        "mesh": torch.tensor([u.mesh() for u in units]),
    }
    for u in units:
        for kind, sums in u.owing():
            assert sums.feedback is not None
            flat = torch.from_numpy(sums.feedback.read(sums.name))
            whole = u.layout.spread(u.row, flat) if kind else flat
            for name, values in u.layout.unpack(whole).items():
                state[f"rank{rank}/{kind}{name}"] = values
    return state


def load(units: Sequence[Unit], state: State, rank: int, size: int) -> None:
    meshes = state["mesh"].tolist()
    if len(meshes) != len(units):
        raise ArgumentError(
            f"the state is of a model with {len(meshes)} fully_shard modules, this one has {len(units)}"
        )
    found: list[tuple[Sums, torch.Tensor]] = []  # everything is there before anything changes
    for u, mesh in zip(units, meshes):
        old = _Saved(state, int(state["world_size"]), mesh)
        same = old.size == size and mesh[:2] == u.mesh()[:2] and old.kinds(u) == u.kinds()
        if not same and (old.kinds(u) and max(old.size // (mesh[0] * mesh[1]), u.parts(size)) > 1):
            raise ArgumentError(
                f"module {u.name!r} is cut along other axes than those of fully_shard, too: what it owes can "
                f"be loaded by as many ranks on the same mesh only, saved on {old.size} ranks with "
                f"(replicas, shards) {tuple(mesh[:2])}, got {size} with {tuple(u.mesh()[:2])}"
            )
        found += _as_it_was(u, old, rank) if same else _dealt(u, old, rank, size)
    for sums, flat in found:
        assert sums.feedback is not None
        sums.feedback.write(sums.name, flat.numpy())
        sums.owing = bool(flat.any())
    for u, step, mesh in zip(units, state["steps"].tolist(), meshes):
        for sums in u.sums():
            sums.step, sums.operator = step, _OPERATORS[mesh[2]]


@dataclass
class _Saved:
    state: State
    size: int
    mesh: Sequence[int]

    def kinds(self, u: Unit) -> list[str]:
        names = [p.name for p in u.layout.pieces]
        keys = {k: {f"rank{r}/{k}{n}" for r in range(self.size) for n in names} for k in _KINDS}
        return [k for k in _KINDS if not keys[k].isdisjoint(self.state)]

    def values(self, u: Unit, rank: int, kind: str) -> dict[str, torch.Tensor]:
        return {p.name: self._value(f"rank{rank}/{kind}{p.name}", p.size.numel()) for p in u.layout.pieces}

    def _value(self, key: str, count: int) -> torch.Tensor:
        values = self.state.get(key)
        if values is None:
            known = sorted({k.split("/")[0] for k in self.state if k.startswith("rank")})
            raise ArgumentError(
                f"no residual {key!r} in the state of {self.size} ranks, which holds {', '.join(known)}: "
                "load the merged state of all ranks, of the same model"
            )
        if values.numel() != count:
            raise ArgumentError(f"residual {key!r} has {values.numel()} elements, expected {count}")
        return values.detach().float().reshape(-1)


def _as_it_was(u: Unit, old: _Saved, rank: int) -> Iterator[tuple[Sums, torch.Tensor]]:
    for kind, sums in u.owing():
        flat = u.layout.pack(old.values(u, rank, kind))
        yield sums, flat if kind == "" else flat.view(u.layout.ranks, -1)[u.row].clone()


def _dealt(u: Unit, old: _Saved, rank: int, size: int) -> Iterator[tuple[Sums, torch.Tensor]]:
    """`total` is of rank gradients here: each adds total / ranks to a mean over all of them."""
    kinds, owing = old.kinds(u), dict(u.owing())
    if not kinds:
        return
    if not owing:
        raise ArgumentError(
            f"the state holds what module {u.name!r} still owes, but error feedback is off for it now"
        )
    ranks, before = u.replicas * u.layout.ranks, old.mesh[0] * old.mesh[1]
    operator = _OPERATORS[old.mesh[2]]
    total = {p.name: torch.zeros(p.size.numel()) for p in u.layout.pieces}
    for kind in kinds:
        divisor = old.mesh[0] if kind and operator == "avg" else before
        weight = 1.0 if operator == "scaled sum" else ranks / divisor
        # without an own residual for the reduce-scatter, the first replica takes what all of them owe
        for r in range(rank, old.size, size) if "" in owing else range(old.size):
            for name, values in old.values(u, r, kind).items():
                total[name] += weight * values
    flat = u.layout.pack(total)
    if "" in owing:
        yield owing[""], flat
        if "replicas/" in owing:
            yield owing["replicas/"], torch.zeros(u.layout.count)
    else:
        own = flat.view(u.layout.ranks, -1)[u.row] / (u.layout.ranks if operator == "avg" else 1)
        yield owing["replicas/"], own if u.replica == 0 else torch.zeros_like(own)
