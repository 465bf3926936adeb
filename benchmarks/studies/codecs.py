"""Which codecs the studies try: all of the registry with their defaults, and the settings named here.

A codec that is added to gradwire appears in both studies by itself; a line here adds a setting of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import gradwire

# Settings beside the defaults, for the rate-distortion curve.
SETTINGS = (
    *(f"int8(block={b})" for b in (32, 64, 128)),
    *(f"int{bits}(block={b})" for bits in (6, 5, 4, 3, 2) for b in (32, 64, 128)),
    *(f"int{bits}(levels=lloyd-max, block={b})" for bits in (6, 5, 4, 3, 2) for b in (32, 64, 128)),
    *(f"int{bits}(rounding=stochastic)" for bits in (8, 4)),
    *(f"sign(block={b})" for b in (32, 64, 128)),
    *(f"rotated4(scale={s})" for s in ("least-squares", "unbiased")),
    *(f"{fp8}(block={b})" for fp8 in ("fp8_e4m3", "fp8_e5m2") for b in (32, 128, 256)),
    *(f"topk(ratio={r}, values={v})" for r in (0.01, 0.03, 0.1, 0.3) for v in ("fp32", "bf16", "int8")),
    *(f"{name}(ratio={r})" for name in ("topk_exact", "randk", "threshold") for r in (0.01, 0.1)),
)
SPARSE = ("topk", "randk", "threshold")


def listed() -> tuple[list[gradwire.Codec], list[str]]:
    """(codecs without repetition, settings that this build does not take)."""
    found: dict[str, gradwire.Codec] = {}
    refused = []
    for spec in (*gradwire.codecs(), *SETTINGS):
        try:
            codec = gradwire.codec(spec)
        except gradwire.ArgumentError:
            refused.append(spec)
        else:
            found.setdefault(repr(codec), codec)
    return list(found.values()), refused


def is_sparse(name: str) -> bool:
    return name.startswith(SPARSE)


@dataclass(frozen=True)
class Method:
    """One way to average gradients, for the training study.

    codec: as `gradwire.codec` takes it, or "powersgd(rank=4)"; None: plain values. error_feedback: keep what
    encoding lost for the next step. warmup: share of the steps that go dense first."""

    name: str
    codec: str | None = None
    error_feedback: bool = True
    warmup: float = 0.0


_CHOSEN = (
    Method("dense"),
    Method("int8", "int8"),
    Method("int4", "int4"),
    Method("top-k 1 %", "topk(ratio=0.01)"),
    Method("top-k 10 %", "topk(ratio=0.1)"),
    Method("sign", "sign"),
    Method("int2", "int2(levels=lloyd-max)"),
    Method("int3", "int3(levels=lloyd-max)"),
    Method("int4 lloyd-max", "int4(levels=lloyd-max, block=128)"),
    Method("rotated4", "rotated4"),
    Method("PowerSGD rank 4", "powersgd(rank=4)"),
    Method("bf16", "bf16"),
    Method("top-k 1 % warm-up", "topk(ratio=0.01)", warmup=0.25),
    Method("top-k 1 % no EF", "topk(ratio=0.01)", error_feedback=False),
    Method("int4 no EF", "int4", error_feedback=False),
    Method("sign no EF", "sign", error_feedback=False),
    Method("fp8_e4m3", "fp8_e4m3(block=256)"),
    Method("int6", "int6"),
    Method("top-k 10 % no EF", "topk(ratio=0.1)", error_feedback=False),
    Method("rand-k 10 %", "randk(ratio=0.1)"),
    Method("int4 stochastic no EF", "int4(rounding=stochastic)", error_feedback=False),
    Method("rotated4 unbiased no EF", "rotated4(scale=unbiased)", error_feedback=False),
    Method("int8 no EF", "int8", error_feedback=False),
    Method("int2 no EF", "int2(levels=lloyd-max)", error_feedback=False),
    Method("PowerSGD rank 1", "powersgd(rank=1)"),
    Method("fp16", "fp16"),
)


def _is_known(codec: str | None) -> bool:
    """Whether this build can do it."""
    try:
        return codec is None or gradwire.PowerSGD.parse(codec) is not None or bool(gradwire.codec(codec))
    except gradwire.ArgumentError:
        return False


def methods() -> list[Method]:
    """The chosen ones that this build can do, the telling ones first, then every other codec there is."""
    able = [m for m in _CHOSEN if _is_known(m.codec)]
    used = {(m.codec or "").partition("(")[0] for m in able} | {"identity"}
    return able + [Method(name, name) for name in gradwire.codecs() if name not in used]
