"""gradwire in torch training: compressed gradient averaging for DistributedDataParallel, tensor-parallel
layers over coded collectives, and coded links between pipeline stages.

>>> handle = gradwire.torch.attach(ddp, codec="int8")  # doctest: +SKIP
"""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError("gradwire.torch needs torch, 2.6 or newer: pip install 'gradwire[torch]'") from error

from . import fsdp, pipeline
from . import ops as _ops  # noqa: F401  # registers torch.ops.gradwire.*
from .backend import ProcessGroupOptions
from .bucketer import GradientBucketer
from .carrier import Carrier
from .chain import BrokenCheckpoint
from .dcp import Stateful
from .ddp import attach
from .dtensor_styles import CompressedColwiseParallel, CompressedRowwiseParallel
from .error_probe import error_probe
from .groups import communicator
from .handle import Handle
from .hook import HookState, all_reduce_hook
from .incremental import IncrementalWriter, load_incremental
from .incremental_dcp import IncrementalStorageReader, IncrementalStorageWriter
from .local_sgd import DiLoCo, LocalSGD
from .mesh_policy import Axis, MeshPolicy
from .start import init_process_group
from .stats import Stats
from .tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    sync_sequence_parallel_gradients,
    vocab_parallel_cross_entropy,
)

__all__ = [
    "Axis",
    "BrokenCheckpoint",
    "Carrier",
    "ColumnParallelLinear",
    "CompressedColwiseParallel",
    "CompressedRowwiseParallel",
    "DiLoCo",
    "GradientBucketer",
    "Handle",
    "HookState",
    "IncrementalStorageReader",
    "IncrementalStorageWriter",
    "IncrementalWriter",
    "LocalSGD",
    "MeshPolicy",
    "ProcessGroupOptions",
    "RowParallelLinear",
    "Stateful",
    "Stats",
    "VocabParallelEmbedding",
    "all_reduce_hook",
    "attach",
    "communicator",
    "error_probe",
    "fsdp",
    "init_process_group",
    "load_incremental",
    "pipeline",
    "sync_sequence_parallel_gradients",
    "vocab_parallel_cross_entropy",
]
