"""gradwire in torch training: compressed gradient averaging for DistributedDataParallel.

>>> handle = gradwire.torch.attach(ddp, codec="int8")  # doctest: +SKIP
"""

from .ddp import Handle, attach
from .hook import all_reduce_hook
from .state import HookState
from .stats import Stats

__all__ = ["Handle", "HookState", "Stats", "all_reduce_hook", "attach"]
