"""What else encodes and selects on a GPU, in the same run: torch, torch.compile, Triton, CuPy and cub.

The quantisers are int8 with one scale per 64 values and fused error feedback in fp32, as gradwire's
encode_ef_fp32 of int8(block=64): y = x + r; q = round(y / s), s = max|y| / 127; r = y - q s. s is fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from gpu_suite.arrays import Kind, installed
from gpu_suite.clock import Entry

BLOCK = 64
RATIO = 0.01
F32 = npt.NDArray[np.float32]


def entries(kind: Kind, x: F32) -> Iterator[Entry]:
    """Every peer's stages; a peer that is missing or fails is an entry that is `skipped`, with the reason."""
    for name, module, make in (
        ("torch.compile", "torch", _compiled),
        ("torch", "torch", _torch_topk),
        ("triton", "triton", _triton),
        ("cupy", "cupy", _cupy),
        ("cub", "torch", _cub),
    ):
        missing = next((m for m in (module, "torch") if not installed(m)), None)
        reason = f"{missing} is not installed" if missing else ""
        if kind.name != "torch" and not reason:
            reason = "works on torch's CUDA tensors, which a simulator has not"
        if not reason:
            try:
                yield from make(x)
                continue
            except Exception as error:
                # whatever a peer's compiler, driver or allocator says: the run goes on without it
                reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        yield Entry({"entry": name, "stage": "-", "codec": None, "skipped": reason}, lambda: None, 0)


def _moved(x: F32, stage: str) -> int:
    """Bytes in device memory, at least."""
    payload = x.size + 4 * -(-x.size // BLOCK)
    k = max(1, round(RATIO * x.size))
    return {
        "encode_ef_fp32": 3 * x.nbytes + payload,
        "decode_add": 2 * x.nbytes + payload,
        "topk": x.nbytes + 12 * k,
    }[stage]


def _entry(name: str, stage: str, x: F32, run: Callable[[], object], wrong: int) -> Entry:
    codec = f"topk(ratio={RATIO})" if stage == "topk" else f"int8(block={BLOCK})"
    what = {"entry": name, "stage": stage, "codec": codec, "wrong": wrong}
    # CuPy's pool asks the driver for memory, which ends a capture
    return Entry(what, run, _moved(x, stage), graph=name != "cupy")


# -- quantisers ----------------------------------------------------------------------------------------
def quantise(y: Any, residual: Any, codes: Any, scales: Any) -> None:
    """In plain torch, on blocks of BLOCK in the last dimension; all but y are written."""
    y = y + residual
    scale = y.abs().amax(-1, keepdim=True).clamp_min(1e-30) / 127
    q = (y / scale).round()
    codes.copy_(q)
    scales.copy_(scale)
    residual.copy_(y - q * scale)


def dequantise_add(codes: Any, scales: Any, total: Any) -> None:
    total.add_(codes * scales)


def wrong_quantiser(x: Any, codes: Any, scales: Any, residual: Any) -> int:
    """Elements whose code and residual do not make x again, or whose residual is over half a step."""
    decoded = codes * scales
    off = (decoded + residual - x).abs() > 1e-5 * x.abs().clamp_min(1e-3)
    return int((off | (residual.abs() > 0.501 * scales)).sum())


def _quantiser(name: str, x: F32, encode: Any, add: Any, device: str = "cuda") -> Iterator[Entry]:
    import torch

    if x.size % BLOCK:
        raise ValueError(f"{x.size} values are not a multiple of {BLOCK}")
    blocks = torch.from_numpy(x).to(device).view(-1, BLOCK)
    residual, codes = torch.zeros_like(blocks), torch.empty_like(blocks, dtype=torch.int8)
    scales = torch.empty_like(blocks[:, :1])
    encode(blocks, residual, codes, scales)
    wrong = wrong_quantiser(blocks, codes, scales, residual)
    yield _entry(name, "encode_ef_fp32", x, lambda: encode(blocks, residual, codes, scales), wrong)

    total = blocks.clone()
    kept, steps = codes.clone(), scales.clone()
    add(kept, steps, total)
    wrong = int(((total - blocks - kept * steps).abs() > 1e-5 * blocks.abs().clamp_min(1e-3)).sum())
    yield _entry(name, "decode_add", x, lambda: add(kept, steps, total), wrong)


def _compiled(x: F32) -> Iterator[Entry]:
    import torch

    encode, add = (torch.compile(f, dynamic=False) for f in (quantise, dequantise_add))
    yield from _quantiser("torch.compile", x, encode, add)


def _triton(x: F32) -> Iterator[Entry]:
    from gpu_suite import triton_peer

    yield from _quantiser("triton", x, triton_peer.quantise, triton_peer.dequantise_add)


# -- top-k ---------------------------------------------------------------------------------------------
def wrong_topk(x: F32, indices: npt.NDArray[Any]) -> int:
    """Magnitudes that are not among the k largest; ties may be broken in any way."""
    got = np.sort(np.abs(x[indices]))
    best = np.sort(np.partition(np.abs(x), x.size - indices.size)[x.size - indices.size :])
    return int((got != best).sum()) + indices.size - np.unique(indices).size


def _torch_topk(x: F32) -> Iterator[Entry]:
    import torch

    there = torch.from_numpy(x).cuda()
    k = max(1, round(RATIO * x.size))

    def run() -> Any:
        return torch.topk(there.abs(), k, sorted=False)

    yield _entry("torch", "topk", x, run, wrong_topk(x, run().indices.cpu().numpy()))


def on_stream(cupy: Any, stream: Any) -> Any:
    """A context in which CuPy works on a torch stream: by the stream protocol, before CuPy 14 by address."""
    if hasattr(cupy.cuda.Stream, "from_external") and hasattr(stream, "__cuda_stream__"):
        return cupy.cuda.Stream.from_external(stream)
    return cupy.cuda.ExternalStream(stream.cuda_stream)


def _cupy(x: F32) -> Iterator[Entry]:
    import cupy
    import torch

    there = cupy.asarray(x)
    k = max(1, round(RATIO * x.size))

    def run() -> Any:
        with on_stream(cupy, torch.cuda.current_stream()):
            return cupy.argpartition(cupy.abs(there), x.size - k)[x.size - k :]

    yield _entry("cupy", "topk", x, run, wrong_topk(x, cupy.asnumpy(run())))

    residual = cupy.zeros_like(there)
    codes = cupy.empty(x.size, "int8")

    def encode() -> Any:
        with on_stream(cupy, torch.cuda.current_stream()):
            y = (there + residual).reshape(-1, BLOCK)
            scale = cupy.maximum(cupy.abs(y).max(1, keepdims=True) / 127, 1e-30)
            q = cupy.rint(y / scale)
            codes[:] = q.reshape(-1).astype("int8")
            residual[:] = (y - q * scale).reshape(-1)
            return scale

    steps = torch.from_dlpack(encode())
    given = torch.from_dlpack(there).view(-1, BLOCK), torch.from_dlpack(codes).view(-1, BLOCK)
    torch.cuda.synchronize()
    wrong = wrong_quantiser(given[0], given[1], steps, torch.from_dlpack(residual).view(-1, BLOCK))
    yield _entry("cupy", "encode_ef_fp32", x, encode, wrong)


def _cub(x: F32) -> Iterator[Entry]:
    import torch
    from gpu_suite import cub_peer

    there = torch.from_numpy(x).cuda()
    k = max(1, round(RATIO * x.size))
    run = cub_peer.topk(there, k)
    yield _entry("cub", "topk", x, run, wrong_topk(x, run()[:k].cpu().numpy()))
