"""The function DDP calls for every bucket, and its state.

DDP compares the annotations with the very objects below, so this file must not turn them into strings (no
`from __future__ import annotations`), the second parameter must be called `bucket`, and the hook must be a
plain function.
"""

from typing import Union

import torch
import torch.distributed as dist

from .state import GradientState

# With torch._dynamo.config.optimize_ddp = "python_reducer" DDP has no buckets: it calls the hook with
# (gradient, parameter), once a parameter, ignores what is returned and expects the gradient to have changed
# in place.
Bucket = Union["dist.GradBucket", tuple[torch.Tensor, torch.Tensor]]  # type: ignore[name-defined]


class HookState(GradientState):
    """The state of `all_reduce_hook`: one per DDP model. Arguments: those of `GradientState`.

    DDP waits for the futures at the end of backward. An error must not be raised where it happens (DDP's
    reducer would stay broken) nor put into the future (DDP would strip its type): a callback that runs after
    DDP's own raises it from `backward()`.
    """

    def reduce(self, bucket: Bucket) -> torch.futures.Future[torch.Tensor]:
        if isinstance(bucket, tuple):
            return self._reduce_parameter(*bucket)
        future = self.start(bucket.index(), bucket.buffer(), bucket.parameters())
        if not self._raise_after_backward():
            # DDP's join() calls the hook outside of backward, with empty buckets, for a rank that has no
            # more data.
            future.wait()
            if bucket.is_last():
                self.end_step()
            self.raise_error()
        return future

    def _reduce_parameter(
        self, grad: torch.Tensor, param: torch.Tensor
    ) -> torch.futures.Future[torch.Tensor]:
        flat = grad if grad.is_sparse else grad.contiguous().view(-1)
        future = self.start(("parameter", id(param)), flat, [param])
        future.wait()
        if flat.data_ptr() != grad.data_ptr():  # grad was strided
            grad.copy_(flat.view(grad.shape))
        if not self._raise_after_backward():
            self.raise_error()
        return future

    def _raise_after_backward(self) -> bool:
        """False outside of backward. Callbacks run in order: one queued by ours comes after DDP's final
        one."""
        queue = torch.autograd.Variable._execution_engine.queue_callback
        try:
            queue(lambda: queue(self._after_backward))
        except RuntimeError:
            return False
        return True

    def _after_backward(self) -> None:
        self.end_step()
        self.raise_error()


def all_reduce_hook(
    state: HookState,
    bucket: dist.GradBucket,  # type: ignore[name-defined]  # torch's stubs lack it
) -> torch.futures.Future[torch.Tensor]:
    """Averages the bucket over the ranks of `state.comm`, in place, coded as `state` says.

    >>> state = gradwire.torch.HookState(comm, "int8")                  # doctest: +SKIP
    >>> ddp.register_comm_hook(state, gradwire.torch.all_reduce_hook)  # doctest: +SKIP
    """
    return state.reduce(bucket)
