"""One model's gradient averaging: codec and policy, plans and residuals of its buckets, what went wrong.

The DDP hook (`hook.py`), `GradientBucketer` and `DiLoCo` all hand it their buckets. The life of one: `start`
is called on the backward thread; the operations are handed to the communicator's native thread; the reaper
completes the future. An error waits in `_error` for whoever started the bucket, because the reaper has nobody
to raise it to.
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
from gradwire.feedback import pay
from gradwire.global_topk import GlobalTopK
from gradwire.policy import Policy
from gradwire.powersgd import PowerSGD
from gradwire.stages import Stages, warmup

from . import device
from .checkpoint import Checkpoint, clean_name
from .next_batch import NextBatch
from .plan import BucketPlan
from .reaper import Pending, Reaper
from .residuals import Residuals
from .rules import Rules
from .stats import Stats, StepCounter
from .trace import HookTrace

CodecChoice = Union[str, Codec, PowerSGD, GlobalTopK, Stages, Policy, Mapping[str, Any], None]


class GradientState:
    """What the averaging of one model's gradients knows; on every rank with the same arguments.

    codec: a name or a Codec; None sends plain values; "auto": none, bf16 or int8, whichever is fastest on
    the links as they were measured (`Communicator.auto_codec`); "powersgd(rank=2)" or
    "global_topk(ratio=0.01)", or such an object; a `gradwire.Stages` (warm-up, ramps); or a policy by
    parameter name, {"*.bias": None,
    "embed.*": "int8", "*": "int4"}. warmup_steps: first steps that go dense (top-k needs them). dense_1d,
    min_numel: parameters with one dimension, or fewer elements, are never coded; by default True and 1024
    beside one codec for all, False and 0 beside a policy. error_feedback: what the codec loses is kept per
    parameter and added to the next step's gradient. residual: how it is kept, "fp32", "bf16" or "int8" (4, 2
    or 1.03 bytes an element). overlap: "backward", or "next-batch": a step gets the averages of the step
    before, and communication may take a whole step unseen; not the default, because the delay costs
    convergence (see `next_batch.py`): measure it, warm the learning rate up, and use no GradScaler, whose
    scale would be of another step; PowerSGD and GlobalTopK then want a communicator that nothing else uses.
    process_group: DDP's, for sparse gradients. named_parameters: `model.named_parameters()`, needed for
    state_dict and for a policy. may_be_unused: a parameter may be one that no rank used in a step; False
    saves a look at every gradient.

    Gradients are on the CPU or on CUDA devices, with the same results; residuals lie beside them, and a
    checkpoint made on the one loads on the other. PowerSGD works in host memory: a GPU's gradients are copied
    there and back, which the backward thread does not wait for."""

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
        overlap: str = "backward",
        timeout: float | None = None,
        process_group: dist.ProcessGroup | None = None,
        named_parameters: Iterable[tuple[str, torch.Tensor]] = (),
        may_be_unused: bool = True,
    ) -> None:
        if overlap not in ("backward", "next-batch"):
            raise ArgumentError(f'overlap must be "backward" or "next-batch", got {overlap!r}')
        self.comm = comm
        self.algorithm = algorithm
        self.next_batch = NextBatch() if overlap == "next-batch" else None
        self._names = names = {clean_name(name): p for name, p in named_parameters if p.requires_grad}
        if warmup_steps:
            if isinstance(codec, (Policy, Mapping, Stages)):
                raise ArgumentError(
                    "warmup_steps goes with one codec; in a policy write gradwire.warmup(codec, steps) for it"
                )
            codec = warmup(codec, warmup_steps)
        self.rules = Rules(codec, names, dense_1d, min_numel)
        self.timeout = timeout
        self.process_group = process_group
        self.may_be_unused = may_be_unused
        self._places: dict[torch.device, device.Host] = {}
        self.trace: HookTrace | None = None
        coded = {name: p for name, p in names.items() if self.rules.may_code(p)}
        self.residuals = Residuals(residual, coded) if error_feedback and self.rules.lossy else None
        self._checkpoint = Checkpoint(self.residuals, bool(names), self.rules.reducers)
        self._plans: dict[object, BucketPlan] = {}
        self._reaper = Reaper()
        self._error: Exception | None = None
        self._counter = StepCounter(self._counters, overlap == "next-batch")
        self._first_step = 0  # steps made before a checkpoint was loaded

    def _counters(self) -> Mapping[str, int]:
        return self.comm.stats()  # of the communicator of the moment: `comm` may be exchanged between steps

    @property
    def step(self) -> int:
        return self._first_step + self._counter.steps

    def stats(self) -> Stats:
        if self.next_batch is not None:
            self.next_batch.wait()  # residuals are in use until then
        return self._counter.stats(self.residuals.norm() if self.residuals is not None else 0.0)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Step, world size, and residuals under `rank{r}/{name}`: every rank's are its own. With
        overlap="next-batch" also the averages that the next step will get."""
        if self.next_batch is None:
            return self._checkpoint.save(self.comm.rank, self.comm.size, self.step)
        self.next_batch.wait()
        kept = self._checkpoint.save(self.comm.rank, self.comm.size, self.step)
        return {**kept, **self.next_batch.state_dict(self._names)}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Of as many ranks, or the merged dict of all ranks of another number: it is dealt out anew."""
        if self.next_batch is not None:
            self.next_batch.load_state_dict(state, self._names)
        self._first_step = self._checkpoint.load(state, self.comm.rank, self.comm.size) - self._counter.steps
        self._plans.clear()  # what they know of residuals is over

    def flush(self) -> None:
        """With overlap="next-batch", after the last step: puts its averages into `grad`, for one more
        `optimizer.step()`. Raises the errors of that step."""
        if self.next_batch is not None:
            self.next_batch.wait()
            self.raise_error()
            self.next_batch.flush()

    def close(self) -> None:
        """Waits for what is under way. The communicator stays open: whoever made it closes it."""
        self._reaper.close()

    # -- buckets ---------------------------------------------------------------------------------------------
    def start(
        self, key: object, flat: torch.Tensor, params: Sequence[torch.Tensor]
    ) -> torch.futures.Future[torch.Tensor]:
        """Averages one bucket, in place; the future ends with `flat`. Every rank starts equal buckets, in the
        same order, from one thread. key: the bucket's name from step to step. An error waits for
        `raise_error`."""
        if self.next_batch is None or flat.is_sparse:
            future = self._submit(key, flat, params).future
        else:
            sent = self.next_batch.exchange(flat, params)
            sent.future = self._submit(key, sent.flat, params).future
            future = self._place(flat.device).future()
            future.set_result(flat)
        if self.trace is not None:
            self.trace.submitted(time.monotonic())
        return future

    def catch_up(self) -> None:
        """Returns once collectives of the caller's own would come in the same order on every rank: the reaper
        may still be issuing those of `reducers`, which `next_batch` leaves running between steps."""
        if self.next_batch is not None and self.rules.reducers:
            self.next_batch.wait()

    def end_step(self) -> None:
        """After the step's last future; a step without a bucket counts nothing."""
        if self.next_batch is not None:
            self._counter.waited(self.next_batch.take_waited())
            self.next_batch.clear_missing()
        self._counter.close_step()
        self.comm.step()
        if self.trace is not None:
            self.trace.backward_ends()

    def raise_error(self) -> None:
        """The first one since the last call."""
        if self._error is not None and self.next_batch is not None:
            self.next_batch.forget()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _submit(self, key: object, buffer: torch.Tensor, params: Sequence[torch.Tensor]) -> Pending:
        now = time.monotonic()
        place = self._place(buffer.device)
        pending = Pending(buffer, place, lambda p, error: self._finish(p, error, key))
        with place.behind_caller(buffer):
            self._begin(pending, key, params, now)
        self._reaper.put(pending)
        return pending

    def _begin(self, pending: Pending, key: object, params: Sequence[torch.Tensor], now: float) -> None:
        buffer = pending.result
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

    def _place(self, of: torch.device) -> device.Host:
        if of not in self._places:
            self._places[of] = device.place_of(of)
        return self._places[of]

    def _submit_dense(self, pending: Pending, key: object, params: Sequence[torch.Tensor], step: int) -> None:
        flat = pending.result
        plan = self._plan(key, flat, params, step)
        plan.settle(flat)
        if not plan.coded:
            pending.works.append(self._all_reduce(plan.place, flat, None, None))
            return
        codecs = plan.codecs(flat, self.comm)
        codes = bool(plan.matrices) or any(codec is not None for codec in codecs)
        loan = plan.lend(codes)
        held = plan.hold_silent(flat, loan) if self.may_be_unused else None
        pack = plan.take_holes(flat) if codes else None
        pending.unpack = lambda: plan.restore(flat, loan, held, pack)
        if not codes:  # "auto" takes nothing: the bucket goes as if it had no sections
            plan.pay_all(flat, loan, held)
            pending.works.append(self._all_reduce(plan.place, flat, None, None))
            return
        if pack is not None:
            pending.works.append(self._all_reduce(plan.place, pack, None, None))
        for s, codec in zip(plan.sections, codecs):
            if isinstance(codec, GlobalTopK):
                continue
            values = flat[s.begin : s.end]
            residual = None if loan is None else loan.flat[s.begin : s.end]
            if codec is None and residual is not None:
                pay(values, residual)
            owed = residual if codec is not None else None
            pending.works.append(self._all_reduce(plan.place, values, codec, owed))
        plan.global_topk(flat, loan, self.comm, self.timeout)
        plan.low_rank(flat, loan, self.comm, timeout=self.timeout, algorithm=self.algorithm)

    def _all_reduce(
        self, place: device.Host, x: torch.Tensor, codec: Codec | None, residual: torch.Tensor | None
    ) -> Any:
        return self.comm.all_reduce(
            place.array(x),
            op="avg",
            codec=codec,
            algorithm=self.algorithm,
            residual=None if residual is None else place.array(residual),
            async_op=True,
            timeout=self.timeout,
        )

    def _submit_sparse(self, pending: Pending) -> None:
        if self.next_batch is not None:
            raise ArgumentError('overlap="next-batch" cannot hold sparse gradients back: use "backward"')
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
            plan = self._plans[key] = self._new_plan(flat, params, step)
        elif plan is None or not plan.fits(params):
            # DDP has regrouped: plans that still name one of these parameters describe buckets that no
            # longer exist.
            moved = {id(p) for p in params}
            self._plans = {k: v for k, v in self._plans.items() if not moved & {id(p) for p in v.params}}
            plan = self._plans[key] = self._new_plan(flat, params, step)
        return plan

    def _new_plan(self, flat: torch.Tensor, params: Sequence[torch.Tensor], step: int) -> BucketPlan:
        place = self._place(flat.device)
        return BucketPlan(params, flat, self.rules, self.residuals, place=place, step=step)

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


_OPTIONS = ("algorithm", "dense_1d", "min_numel", "warmup_steps", "error_feedback", "residual", "overlap")


def of_state(options: Mapping[str, Any], given_comm: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of a user's call: (those of GradientState, those of `gradwire.init`). A timeout is the
    communicator's if one is to be made."""
    mine = (*_OPTIONS, "timeout") if given_comm else _OPTIONS
    return (
        {k: v for k, v in options.items() if k in mine},
        {k: v for k, v in options.items() if k not in mine},
    )
