"""One DDP model's communication: codec and policy, plans and residuals of its buckets, what went wrong.

The life of a bucket: DDP calls `reduce` on the backward thread; the operations are handed to the
communicator's native thread; the reaper completes the future; DDP waits for the futures at the end of
backward. An error must not be raised where it happens (DDP's reducer would stay broken) nor put into the
future (DDP would strip its type), so it waits in `_error` until DDP has finished, and a callback that runs
after DDP's own raises it from `backward()`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Union, cast

import torch
import torch.distributed as dist

from gradwire.codecs import Codec
from gradwire.communicator import Communicator
from gradwire.errors import ArgumentError
from gradwire.global_topk import GlobalTopK
from gradwire.policy import Policy
from gradwire.powersgd import PowerSGD
from gradwire.stages import Stages, warmup

from .checkpoint import Checkpoint, clean_name
from .plan import BucketPlan
from .reaper import Pending, Reaper
from .residuals import Residuals
from .rules import Rules
from .stats import Stats, StepCounter
from .trace import HookTrace

# With torch._dynamo.config.optimize_ddp = "python_reducer" DDP has no buckets: it calls the hook with
# (gradient, parameter), once a parameter, ignores what is returned and expects the gradient to have changed
# in place.
CodecChoice = Union[str, Codec, PowerSGD, GlobalTopK, Stages, Policy, Mapping[str, Any], None]
Bucket = Union["dist.GradBucket", tuple[torch.Tensor, torch.Tensor]]  # type: ignore[name-defined]


class HookState:
    """The state of `all_reduce_hook`: one per DDP model, on every rank with the same arguments.

    codec: a name or a Codec; None sends plain values; "powersgd(rank=2)" or "global_topk(ratio=0.01)", or
    such an object; a `gradwire.Stages` (warm-up, ramps); or a policy by parameter name, {"*.bias": None,
    "embed.*": "int8", "*": "int4"}. warmup_steps: first steps that go dense (top-k needs them). dense_1d,
    min_numel: parameters with one dimension, or fewer elements, are never coded; by default True and 1024
    beside one codec for all, False and 0 beside a policy. error_feedback: what the codec loses is kept per
    parameter and added to the next step's gradient. residual: how it is kept, "fp32", "bf16" or "int8" (4, 2
    or 1.03 bytes an element). process_group: DDP's, for sparse gradients. named_parameters:
    `ddp.named_parameters()`, needed for state_dict and for a policy."""

    def __init__(
        self,
        comm: Communicator,
        codec: CodecChoice = "int8",
        *,
        algorithm: str = "auto",
        dense_1d: bool | None = None,
        min_numel: int | None = None,
        warmup_steps: int = 0,
        error_feedback: bool = True,
        residual: str = "fp32",
        timeout: float | None = None,
        process_group: dist.ProcessGroup | None = None,
        named_parameters: Iterable[tuple[str, torch.nn.Parameter]] = (),
    ) -> None:
        self.comm = comm
        self.algorithm = algorithm
        names = {clean_name(name): p for name, p in named_parameters if p.requires_grad}
        if warmup_steps:
            if isinstance(codec, (Policy, Mapping, Stages)):
                raise ArgumentError(
                    "warmup_steps goes with one codec; in a policy write gradwire.warmup(codec, steps) for it"
                )
            codec = warmup(codec, warmup_steps)
        self.rules = Rules(codec, names, dense_1d, min_numel)
        self.timeout = timeout
        self.process_group = process_group
        self.trace: HookTrace | None = None
        coded = {name: p for name, p in names.items() if self.rules.may_code(p)}
        self.residuals = Residuals(residual, coded) if error_feedback and self.rules.lossy else None
        self._checkpoint = Checkpoint(self.residuals, bool(names), self.rules.reducers)
        self._plans: dict[object, BucketPlan] = {}
        self._reaper = Reaper()
        self._error: Exception | None = None
        self._counter = StepCounter(self._counters)
        self._first_step = 0  # steps made before a checkpoint was loaded

    def _counters(self) -> Mapping[str, int]:
        return self.comm.stats()  # of the communicator of the moment: `comm` may be exchanged between steps

    @property
    def step(self) -> int:
        return self._first_step + self._counter.steps

    def stats(self) -> Stats:
        return self._counter.stats(self.residuals.norm() if self.residuals is not None else 0.0)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Step, world size, and residuals under `rank{r}/{name}`: every rank's are its own."""
        return self._checkpoint.save(self.comm.rank, self.comm.size, self.step)

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Of as many ranks, or the merged dict of all ranks of another number: it is dealt out anew."""
        self._first_step = self._checkpoint.load(state, self.comm.rank, self.comm.size) - self._counter.steps

    def close(self) -> None:
        """Waits for what is under way. The communicator stays open: whoever made it closes it."""
        self._reaper.close()

    # -- the hook --------------------------------------------------------------------------------------------

    def reduce(self, bucket: Bucket) -> torch.futures.Future[torch.Tensor]:
        if isinstance(bucket, tuple):
            return self._reduce_parameter(*bucket)
        pending = self._submit(bucket.index(), bucket.buffer(), bucket.parameters())
        if self.trace is not None:
            self.trace.submitted(time.monotonic())
        if not self._raise_after_backward():
            # DDP's join() calls the hook outside of backward, with empty buckets, for a rank that has no
            # more data.
            pending.future.wait()
            if bucket.is_last():
                self._counter.close_step()
            self._raise_error()
        return pending.future

    def _reduce_parameter(
        self, grad: torch.Tensor, param: torch.Tensor
    ) -> torch.futures.Future[torch.Tensor]:
        flat = grad if grad.is_sparse else grad.contiguous().view(-1)
        pending = self._submit(("parameter", id(param)), flat, [param])
        pending.future.wait()
        if flat.data_ptr() != grad.data_ptr():  # grad was strided
            grad.copy_(flat.view(grad.shape))
        if not self._raise_after_backward():
            self._raise_error()
        return pending.future

    def _submit(self, key: object, buffer: torch.Tensor, params: Sequence[torch.Tensor]) -> Pending:
        now = time.monotonic()
        pending = Pending(buffer, lambda p, error: self._finish(p, error, key))
        try:
            if buffer.is_sparse:
                self._submit_sparse(pending)
            else:
                self._counter.bucket(now, buffer.numel() * buffer.element_size(), self.comm.size)
                if self.trace is not None:
                    self.trace.ready(key, now, buffer.numel())
                submit = partial(self._submit_dense, pending, key, params, self.step)
                # PowerSGD's second collective follows from the first one's result. Were it issued when that
                # is done, beside a backward thread that issues other buckets', the order would differ from
                # rank to rank; so then all of them are issued by the reaper, bucket by bucket.
                if self.rules.reducers:
                    pending.submit = submit
                else:
                    submit()
        except Exception as error:
            pending.error = error
        self._reaper.put(pending)
        return pending

    def _submit_dense(self, pending: Pending, key: object, params: Sequence[torch.Tensor], step: int) -> None:
        flat = pending.result
        plan = self._plan(key, flat, params, step)
        plan.settle(flat)
        if not plan.coded:
            pending.works.append(self._all_reduce(flat, None, None))
            return
        loan = plan.lend()
        held = plan.hold_silent(flat, loan)
        pack = plan.take_holes(flat)
        pending.unpack = lambda: plan.restore(flat, loan, held)
        if pack is not None:
            pending.works.append(self._all_reduce(pack, None, None))
        for s in plan.sections:
            if isinstance(s.codec, GlobalTopK):
                continue
            residual = None if loan is None else loan.flat[s.begin : s.end]
            pending.works.append(self._all_reduce(flat[s.begin : s.end], s.codec, residual))
        plan.global_topk(flat, loan, self.comm, self.timeout)
        plan.low_rank(flat, loan, self.comm, timeout=self.timeout, algorithm=self.algorithm)

    def _all_reduce(self, x: torch.Tensor, codec: Codec | None, residual: torch.Tensor | None) -> Any:
        return self.comm.all_reduce(
            x,
            op="avg",
            codec=codec,
            algorithm=self.algorithm,
            residual=residual,
            async_op=True,
            timeout=self.timeout,
        )

    def _submit_sparse(self, pending: Pending) -> None:
        # Which rows are set differs per rank, which fixed-size messages cannot carry: DDP's own backend
        # does it.
        grad = pending.result
        work = dist.all_reduce(grad, group=self.process_group, async_op=True)
        size = dist.get_world_size(self.process_group)
        pending.works.append(cast(Any, work))
        pending.unpack = lambda: grad.div_(size)

    def _plan(self, key: object, flat: torch.Tensor, params: Sequence[torch.Tensor], step: int) -> BucketPlan:
        plan = self._plans.get(key)
        if plan is not None and plan.fits(params) and not plan.of_stage(self.rules, step):
            plan = self._plans[key] = BucketPlan(params, flat, self.rules, self.residuals, step)
        elif plan is None or not plan.fits(params):
            # DDP has regrouped: plans that still name one of these parameters describe buckets that no
            # longer exist.
            moved = {id(p) for p in params}
            self._plans = {k: v for k, v in self._plans.items() if not moved & {id(p) for p in v.params}}
            plan = self._plans[key] = BucketPlan(params, flat, self.rules, self.residuals, step)
        return plan

    # -- completion and errors -------------------------------------------------------------------------------

    def _finish(self, pending: Pending, error: Exception | None, key: object) -> None:
        """On the reaper thread."""
        try:
            pending.unpack()
        except Exception as e:
            error = error or e
        if error is not None and self._error is None:
            self._error = error
        now = time.monotonic()
        self._counter.done(now)
        if self.trace is not None:
            self.trace.done(key, now)

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
        self._counter.close_step()
        if self.trace is not None:
            self.trace.backward_ends()
        self._raise_error()

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
