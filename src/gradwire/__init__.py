"""gradwire: collective communication with gradient compression.

>>> import gradwire, numpy as np
>>> comm = gradwire.init(rank=0, size=1)  # under torchrun, mpirun or srun: gradwire.init()
>>> comm.all_reduce(np.float32([1, 2, 3]), op="avg", codec="int8")
array([1., 2., 3.], dtype=float32)
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

try:
    from gradwire import _native
except ImportError as error:
    raise ImportError(
        f"gradwire's native module does not load ({error}); for this Python: pip install --force-reinstall ."
    ) from error
from gradwire import errors, ops
from gradwire.codecs import Codec, codec, codecs, decode, decode_add, encode
from gradwire.communicator import Communicator, init
from gradwire.errors import (
    Aborted,
    ArgumentError,
    Closed,
    CodecError,
    FrameError,
    GpuError,
    GradwireError,
    InternalError,
    MismatchError,
    PeerLost,
    RendezvousError,
    Timeout,
)
from gradwire.feedback import ErrorFeedback
from gradwire.global_topk import GlobalTopK
from gradwire.peer_memory import PeerMemory
from gradwire.policy import Policy
from gradwire.powersgd import PowerSGD
from gradwire.stages import Stages, ramp, warmup
from gradwire.store import Store
from gradwire.topology import Topology
from gradwire.trace import TraceEvent
from gradwire.user_codec import register_codec
from gradwire.work import Work

if TYPE_CHECKING:
    from gradwire import testing
    from gradwire.torch import MeshPolicy

__version__ = "0.1.0"

__all__ = [
    "Aborted",
    "ArgumentError",
    "Closed",
    "Codec",
    "CodecError",
    "Communicator",
    "ErrorFeedback",
    "FrameError",
    "GlobalTopK",
    "GpuError",
    "GradwireError",
    "InternalError",
    "MismatchError",
    "PeerLost",
    "PeerMemory",
    "Policy",
    "PowerSGD",
    "RendezvousError",
    "Stages",
    "Store",
    "Timeout",
    "Topology",
    "TraceEvent",
    "Work",
    "codec",
    "codecs",
    "decode",
    "decode_add",
    "encode",
    "errors",
    "init",
    "ops",
    "policy",
    "ramp",
    "register_codec",
    "testing",
    "warmup",
]

_native.set_error_types(errors.BY_KIND)
# What the native part has to say (which way to a peer was taken, what does not work as well as it could) goes
# to the logger "gradwire", at INFO and WARNING; silent unless the program listens.
logging.getLogger("gradwire").addHandler(logging.NullHandler())
_native.set_log_sink(logging.getLogger("gradwire").log)


def policy(mesh: Any, **axes: Any) -> MeshPolicy:
    """What travels how along each axis of a torch DeviceMesh. Every rank calls it. (By parameter: `Policy`.)

    axes: by the mesh's own names, whatever those are: a codec, a pair (forward, backward) for tensor and
    pipeline parallelism, whatever `attach` takes for data parallelism, or a `gradwire.torch.Axis` that says
    also the algorithm and settings of the axis' communicator. None, or no mention: exact. Raises
    ArgumentError for an axis that the mesh does not have.

    >>> mesh = init_device_mesh("cpu", (2, 2, 2), mesh_dim_names=("pp", "dp", "tp"))  # doctest: +SKIP
    >>> policy = gradwire.policy(mesh, dp="int4", pp=("bf16", "int8"), tp="int8")     # doctest: +SKIP
    >>> up = gradwire.torch.ColumnParallelLinear(512, 2048, **policy["tp"].layers)     # doctest: +SKIP
    >>> handle = policy["dp"].attach(ddp)                                              # doctest: +SKIP
    >>> link = policy["pp"].pipeline(PipelineStage(ddp, ...))                          # doctest: +SKIP
    >>> print(policy.table())                                                          # doctest: +SKIP
    """
    from gradwire.torch import MeshPolicy

    return MeshPolicy(mesh, **axes)


# Imported on first use: torch is not needed by everyone, testing by few.
_ON_DEMAND = ("torch", "testing")


def __getattr__(name: str) -> Any:
    if name in _ON_DEMAND:
        return importlib.import_module(f"gradwire.{name}")
    raise AttributeError(f"module 'gradwire' has no attribute {name!r}")
