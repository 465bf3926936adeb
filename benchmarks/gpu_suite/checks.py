"""What must hold before anything is timed: the CPU's bytes from every kernel, and the same again from graphs.

python benchmarks/gpu_suite/checks.py        # the codecs alone, small: what compute-sanitizer is run on
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gpu_suite.arrays import Kind
from gpu_suite.codec_stages import has_kernels, stages

import gradwire
from gradwire import Codec, ops

# Beside the defaults of every codec: other blocks, levels and roundings, which are other kernels.
SETTINGS = (
    *("int8(block=32)", "int8(rounding=stochastic)"),
    *("int4(block=128,levels=lloyd-max)", "int4(rounding=stochastic)"),
    *("int6(block=64)", "int5(levels=lloyd-max)", "int3(levels=lloyd-max)", "int2(levels=lloyd-max)"),
    *("sign(block=32)", "rotated4(scale=unbiased)", "fp8_e4m3(block=256)", "fp8_e5m2(block=32)"),
    *("topk(ratio=0.05,values=int8)", "randk(ratio=0.05)"),
)


def codecs(kind: Kind) -> tuple[list[Codec], list[str]]:
    """(those with kernels, names of those without)."""
    found: list[Codec] = []
    missing = []
    for spec in (*gradwire.codecs(), *SETTINGS):
        codec = gradwire.codec(spec)
        if has_kernels(codec, kind):
            found.append(codec)
        elif spec == codec.name:
            missing.append(spec)
    return found, missing


def odd_counts(codec: Codec, largest: int) -> list[int]:
    block = codec.block
    counts = {0, 1, 7, block - 1, block, block + 1, 1023, 1024 + block + 5, 3 * 1024 + 11, largest | 1}
    return sorted(n for n in counts if 0 <= n <= (largest | 1))


def waves(count: int, seed: int) -> npt.NDArray[np.float32]:
    """Values of many sizes, with zeros, ties, infinities and NaN."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(count) * np.exp2(rng.integers(-6, 6, count))).astype(np.float32)
    x[rng.random(count) < 0.05] = 0
    if count > 300:
        x[40:80] = 2.0
        x[130:180] = 0
        x[200:202] = 3e38, 1e-42
        x[260:262] = np.nan, np.inf
    return x


def row(entry: str, codec: str | None, dtype: str | None, compared: int, wrong: int | None) -> dict[str, Any]:
    """wrong None: not checked."""
    what = {"part": "check", "entry": entry, "codec": codec, "dtype": dtype}
    return {**what, "compared": compared, "wrong": wrong, "skipped": None}


def codec_rows(kind: Kind, largest: int, only: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """A row a codec and dtype. compared: stages, of every odd count; wrong: bytes that differed."""
    for codec in codecs(kind)[0]:
        if only and codec.name not in only:
            continue
        for dtype in kind.dtypes:
            compared = wrong = 0
            for seed, count in enumerate(odd_counts(codec, largest)):
                x = waves(count, seed)
                with np.errstate(all="ignore"):
                    for stage in stages(codec, x, dtype, kind):
                        stage.run()
                        wrong += stage.wrong()
                        compared += 1
            yield row(f"codec on {kind.name} arrays", repr(codec), dtype, compared, wrong)


def replay_row(kind: Kind, simulated: bool, replays: int, count: int = 100_003) -> dict[str, Any]:
    """One step of error feedback as a CUDA graph, replayed: payload and residual end as on the CPU.

    The simulator has no graphs: there it is as many calls."""
    codec = gradwire.codec("int8")
    x = np.random.default_rng(3).standard_normal(count, np.float32)
    residual, payload = np.zeros_like(x), np.zeros(codec.encoded_bytes(count), np.uint8)
    for _ in range(replays):
        ops.error_feedback(x, residual, codec, out=payload)
    there, owed = kind.put(x, "float32"), kind.put(np.zeros_like(x), "float32")
    out = kind.put(np.zeros_like(payload), "uint8")

    def step() -> object:
        return ops.error_feedback(there, owed, codec, out=out)

    run: Any = step if simulated else _captured(step, owed.zero_)
    for _ in range(replays):
        run()
    wrong = int((kind.get(out) != payload).sum() + (kind.get(owed) != residual.view(np.uint8)).sum())
    entry = f"{replays} {'calls' if simulated else 'graph replays'}"
    return row(entry, repr(codec), "float32", replays, wrong)


def _captured(step: Any, reset: Any) -> Any:
    import torch

    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()  # loads the kernels, which a capture must not
        reset()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        step()

    def run() -> None:
        with torch.cuda.stream(stream):
            graph.replay()

    return run
