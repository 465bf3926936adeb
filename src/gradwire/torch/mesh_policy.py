"""What travels how on a DeviceMesh, axis by axis, and what each axis cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.distributed.device_mesh import DeviceMesh
from torch.nn.parallel import DistributedDataParallel

from gradwire.communicator import Communicator
from gradwire.errors import ArgumentError
from gradwire.policy import Policy

from . import pipeline
from .bucketer import GradientBucketer
from .ddp import attach
from .groups import new_communicator, share
from .handle import Handle
from .mappings import spelled
from .usage import Meter, Row, Table, metered

__all__ = ["Axis", "MeshAxis", "MeshPolicy"]


@dataclass(frozen=True)
class Axis:
    """How one axis of parallelism communicates.

    codec: of data parallelism whatever `attach` takes; of tensor and pipeline parallelism a name for both
    directions, or a pair (forward, backward). algorithm: of its collectives. settings: of `gradwire.init`,
    for the axis' communicator: transport, timeout, sockets, ...

    >>> gradwire.torch.Axis("int4", algorithm="ring", settings={"timeout": 60})
    Axis(codec='int4', algorithm='ring', settings={'timeout': 60})
    """

    codec: Any = None
    algorithm: str = "auto"
    settings: dict[str, Any] = field(default_factory=dict)


class MeshAxis:
    """One axis of a mesh with its own communicator, for whatever communicates along it."""

    def __init__(self, mesh: DeviceMesh, name: str, axis: Axis) -> None:
        self.name, self.codec, self.algorithm = name, axis.codec, axis.algorithm
        self.group = mesh.get_group(name)
        self.comm: Communicator = new_communicator(self.group, **axis.settings)
        share(self.group, self.comm)  # tensor-parallel layers find it by the group
        self._meter = Meter(name, axis.algorithm)
        metered(self.comm, self._meter)
        self._handles: list[Handle] = []
        self._links: list[pipeline.Link] = []

    @property
    def layers(self) -> dict[str, Any]:
        """What tensor-parallel layers are made with: `ColumnParallelLinear(8, 32, **policy["tp"].layers)`."""
        return {"group": self.group, "codec": spelled(self.codec)}

    def attach(self, ddp: DistributedDataParallel, **options: Any) -> Handle:
        """Averages a DDP model's gradients along this axis: `gradwire.torch.attach`, with its options."""
        return self._averaging(attach(ddp, self.codec, self.comm, algorithm=self.algorithm, **options))

    def bucketer(self, parameters: Iterable[Any], **options: Any) -> GradientBucketer:
        """The same without DDP: a `GradientBucketer`, whose options it takes."""
        made = GradientBucketer(parameters, self.comm, self.codec, algorithm=self.algorithm, **options)
        self._averaging(made)
        return made

    def _averaging(self, handle: Handle) -> Handle:
        self._handles.append(handle)
        return handle

    def pipeline(self, stage: Any) -> pipeline.Link:
        """Codes what a stage, or all of this rank's, exchanges along this axis: `pipeline.apply`."""
        forward, backward = self.codec if isinstance(self.codec, tuple) else (self.codec, self.codec)
        self._links.append(pipeline.apply(stage, forward, backward, self.comm))
        return self._links[-1]

    def rows(self) -> list[Row]:
        """What travelled along this axis so far, of this rank."""
        found = list(self._meter.calls.values())
        for handle in self._handles:
            s = handle.stats()
            row = self._row(self.codec, "all_reduce", s.steps)
            row.dense_bytes = round(s.dense_bytes_per_step * s.steps)
            row.sent_bytes = round(s.bytes_per_step * s.steps)
            row.exposed_s = s.exposed_s_per_step * s.steps
            found.append(row)
        for link in self._links:
            for collective, side in (("send forward", link.forward), ("send backward", link.backward)):
                row = self._row(side.codec, collective, side.sends)
                row.dense_bytes, row.sent_bytes = side.dense_bytes, side.bytes_sent
                row.exposed_s = side.waited_s
                found.append(row)
        return found

    def close(self) -> None:
        """Ends what was attached, and the communicator."""
        for handle in self._handles:
            handle.close()
        self.comm.close()

    def _row(self, codec: Any, collective: str, calls: int) -> Row:
        by_parameter = isinstance(codec, (Policy, Mapping))
        text = "none" if codec is None else "by parameter" if by_parameter else str(codec)
        return Row(self.name, self.comm.size, text, collective, calls)


class MeshPolicy:
    """What `gradwire.policy` makes: a `MeshAxis` for every axis of the mesh, by its name."""

    def __init__(self, mesh: DeviceMesh, **axes: Any) -> None:
        names = mesh.mesh_dim_names or ()
        unknown = sorted(set(axes) - set(names))
        if unknown or not names:
            raise ArgumentError(
                f"policy(): the mesh has no axis {', '.join(unknown)}; its axes are "
                f"{', '.join(names) or 'unnamed'}: name them by init_device_mesh(..., mesh_dim_names=...)"
            )
        wanted = {n: axes.get(n) for n in names}
        self._axes = {
            # every rank is in one group of each axis, and makes them in the mesh's order
            n: MeshAxis(mesh, n, axis if isinstance(axis, Axis) else Axis(axis))
            for n, axis in wanted.items()
        }

    def __getitem__(self, name: str) -> MeshAxis:
        if name not in self._axes:
            raise ArgumentError(f"no axis {name!r}; the mesh has {', '.join(self._axes)}")
        return self._axes[name]

    def table(self) -> Table:
        """Of each axis: its collectives, bytes and exposed time so far, of this rank. `print` it, or read
        `rows`."""
        return Table([row for axis in self._axes.values() for row in axis.rows()])

    def close(self) -> None:
        """Ends what was attached, and the communicators."""
        for axis in self._axes.values():
            axis.close()
