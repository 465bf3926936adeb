"""Where gradients lie, and in what order things are done to them: all that the hook knows of CUDA.

In host memory everything is done when a call returns. On a GPU a state's work goes on one stream of its own.
Per bucket that stream waits for what the caller's had been given so far; the communicator's kernels and
copies wait for it, and it for them; the future is completed by an event of it, for which the stream of
whoever waits for the future waits. So the host waits for the network alone: the backward thread hands over a
bucket and goes on to the next layer's kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from gradwire import _native
from gradwire.errors import ArgumentError

from .reaper import Waitable

Tensor = torch.Tensor


class Moment:
    """What had been done in a place when it was made; in host memory that is done."""

    def passed(self) -> bool:
        return True

    def wait(self) -> None:
        """What this thread does from now on comes after it."""


class Host:
    """CPU tensors."""

    device = torch.device("cpu")
    like: Any = None  # an array of the place: what is kept between steps is made like it
    kernels: Any = _native  # `quantize` and `dequantize` for arrays of the place
    answers = True  # a value can be looked at without waiting for whatever was put in line before

    def behind_caller(self, *_tensors: Tensor) -> AbstractContextManager[None]:
        """What is done in the block comes after all that this thread has done; it uses the tensors."""
        return nullcontext()

    def in_line(self) -> AbstractContextManager[None]:
        """What is done in the block comes after what was done in earlier blocks, of any thread."""
        return nullcontext()

    def future(self) -> torch.futures.Future[Tensor]:
        """To be completed inside a block: then it is complete when all that came before is done."""
        return torch.futures.Future()

    def wait(self, work: Waitable) -> None:
        """Inside a block: what follows comes after the operation. Raises its error."""
        work.wait()

    def moment(self) -> Moment:
        """Now, inside a block."""
        return Moment()

    def array(self, x: Tensor) -> Any:
        """As a communicator takes it."""
        return x

    def tensor(self, array: Any) -> Tensor:
        """That shares an array's memory; `array` is one like `like`."""
        return torch.from_numpy(array)

    @contextmanager
    def arrays(self, *tensors: Tensor) -> Iterator[list[Any]]:
        """Flat float32 tensors as a reducer takes them, inside a block; what it does to them is in line."""
        yield [x.numpy() for x in tensors]


class _Event(Moment):
    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._event = torch.cuda.current_stream(device).record_event()

    def passed(self) -> bool:
        return bool(self._event.query())

    def wait(self) -> None:
        torch.cuda.current_stream(self._device).wait_event(self._event)


class Gpu(Host):
    """Tensors of one CUDA device."""

    kernels = _native.gpu
    answers = False

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.like = torch.empty(0, device=device)
        cuda: Any = torch.cuda  # torch's type information has no arguments for Stream
        self.stream = cuda.Stream(device)

    @contextmanager
    def behind_caller(self, *tensors: Tensor) -> Iterator[None]:
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            yield
        for tensor in tensors:  # freed here, its memory is given to nobody before this stream is done with it
            if not tensor.is_sparse:
                tensor.record_stream(self.stream)

    def in_line(self) -> AbstractContextManager[None]:
        return torch.cuda.stream(self.stream)

    def future(self) -> torch.futures.Future[Tensor]:
        return torch.futures.Future(devices=[self.device])

    def moment(self) -> Moment:
        return _Event(self.device)

    def tensor(self, array: Any) -> Tensor:
        return torch.as_tensor(array)

    @contextmanager
    def arrays(self, *tensors: Tensor) -> Iterator[list[Any]]:
        yield list(tensors)


def place_of(device: torch.device) -> Host:
    """ArgumentError if gradients cannot be averaged there."""
    check(device, "the gradient")
    return Host() if device.type == "cpu" else Gpu(device)


def known(device: torch.device) -> bool:
    return device.type in ("cpu", "cuda")


def check(device: torch.device, what: str) -> None:
    if not known(device):
        raise ArgumentError(f"{what} is on {device}; gradwire averages gradients on CPU and CUDA devices")
