"""Where the checks of the GPU hook run: on the GPU there is, or on the simulator, whose memory is the host's.

torch knows no simulated GPU. So its tensors stay CPU tensors, whose memory the simulator takes for the
device's; the hook's place for them shows them to the communicator as arrays on GPU 0. DDP, the hook,
residuals, the GPU driver and its kernels are the real ones; torch's own streams are not there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gradwire
from gradwire import _native
from gradwire.torch import device

SIMULATED = bool(_native.gpu.status()["simulated"])
DEVICE = "cpu" if SIMULATED else "cuda:0"
_TYPESTR = {"float32": "<f4", "float16": "<f2", "bfloat16": "<V2", "uint8": "|u1", "int64": "<i8"}


class Shown:
    """A CPU tensor as an array on the simulated GPU."""

    def __init__(self, tensor: torch.Tensor) -> None:
        assert tensor.is_contiguous()
        self.tensor, self.shape, self.size = tensor, tuple(tensor.shape), tensor.numel()
        self.dtype = str(tensor.dtype).removeprefix("torch.")

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        data = (self.tensor.data_ptr(), False)
        return {"shape": self.shape, "typestr": _TYPESTR[self.dtype], "data": data, "version": 3}


class Simulated(device.Host):
    answers = False

    def __init__(self) -> None:
        self.kernels = self
        self.like = Shown(torch.empty(1))
        self._one = _native.gpu.DeviceArray((1,), "uint8")

    def _finish(self) -> None:
        """torch's operators on CPU tensors wait for no stream."""
        _native.gpu.copy(np.empty(1, np.uint8), self._one)

    def quantize(self, *arguments: Any, **more: Any) -> int:
        written = _native.gpu.quantize(*arguments, **more)
        self._finish()
        return written

    def dequantize(self, *arguments: Any, **more: Any) -> None:
        _native.gpu.dequantize(*arguments, **more)
        self._finish()

    def wait(self, work: Any) -> None:
        if isinstance(work, gradwire.Work):
            assert work._native.device == 0, "the communicator took it for an array in host memory"
        try:
            work.wait()
        finally:
            self._finish()

    def array(self, x: torch.Tensor) -> Any:
        return Shown(x)

    @contextmanager
    def arrays(self, *tensors: torch.Tensor) -> Iterator[list[Any]]:
        yield [Shown(x) for x in tensors]
        self._finish()

    def tensor(self, array: Any) -> torch.Tensor:
        self._finish()
        if not array.size:
            return torch.empty(0)
        address = array.__cuda_array_interface__["data"][0]
        return torch.frombuffer((ctypes.c_float * array.size).from_address(address), dtype=torch.float32)


@contextmanager
def on_gpu(delay_us: int = 200) -> Iterator[None]:
    """Hooks made in the block find their gradients on the GPU. Simulated streams dawdle, so that whatever is
    out of order comes out wrong."""
    if not SIMULATED:
        yield
        return
    library = ctypes.CDLL(str(Path(gradwire.__file__).parent / "libgradwire_cusim.so"))
    real = device.place_of
    library.gradwire_cusim_all_memory(1)
    library.gradwire_cusim_delay(delay_us)
    device.place_of = lambda _: Simulated()
    try:
        yield
    finally:
        device.place_of = real
        library.gradwire_cusim_delay(0)
