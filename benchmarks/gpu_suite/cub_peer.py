"""cub_topk.cu, compiled by nvcc for the GPU at hand and called through ctypes."""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMPILE_S = 120


def compile_for(arch: str, folder: str) -> Path:
    """The shared object; RuntimeError with nvcc's words if there is none."""
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    if not Path(nvcc).exists():
        raise RuntimeError("nvcc is not installed")
    source, out = Path(__file__).with_name("cub_topk.cu"), Path(folder) / "cub_topk.so"
    command = [nvcc, "-O3", "-shared", "-Xcompiler", "-fPIC", f"-arch={arch}", str(source), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_S, check=False)
    if done.returncode:
        raise RuntimeError(f"nvcc: {(done.stderr or done.stdout).strip().splitlines()[0]}")
    return out


@functools.cache
def _library() -> Any:
    import torch

    major, minor = torch.cuda.get_device_capability()
    with tempfile.TemporaryDirectory() as folder:
        return ctypes.CDLL(str(compile_for(f"sm_{major}{minor}", folder)))


def topk(x: Any, k: int) -> Callable[[], Any]:
    """A call that gives the indices of x (CUDA, fp32) by falling magnitude, int32[x.numel()]."""
    import torch

    call, n = _library().gw_cub_topk, x.numel()
    keys, indices = (torch.empty(2, n, dtype=torch.int32, device=x.device) for _ in range(2))
    size = ctypes.c_size_t()

    def run(temp: Any = None) -> Any:
        stream = torch.cuda.current_stream().cuda_stream
        arrays = [ctypes.c_void_p(a.data_ptr()) for a in (x, keys, indices)]
        room = ctypes.c_void_p(temp.data_ptr() if temp is not None else None)
        code = call(*arrays, ctypes.c_uint(n), room, ctypes.byref(size), ctypes.c_void_p(stream))
        if code:
            raise RuntimeError(f"cub: CUDA error {code}")
        return indices[1]

    run()  # asks for the size
    temp = torch.empty(max(1, size.value), dtype=torch.uint8, device=x.device)
    return lambda: run(temp)
