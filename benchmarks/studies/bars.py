"""What gradwire promises about the error of a codec, held against a study's rows."""

from __future__ import annotations

from collections.abc import Sequence

from .rows import Row

# Relative L2 error of one encode on N(0,1), at most.
BARS = {
    "bf16": 0.0017,
    "int8(block=32)": 0.0054,
    "int8(block=64)": 0.0060,
    "int8(block=128)": 0.0065,
    "int6(block=32)": 0.0215,
    "int4(block=32)": 0.087,
    "int4(block=128, levels=lloyd-max)": 0.096,
    "int3(block=128, levels=lloyd-max)": 0.185,
    "int2(block=128, levels=lloyd-max)": 0.345,
    "sign(block=128)": 0.605,
    "fp8_e4m3(block=256)": 0.0265,
}
ROBUST = {"rotated4": 0.10}  # on every input; the name may be followed by parameters
NEAR_BOUND = 0.5  # bits; at least one codec of 4 to 4.6 bits is as near to the Gaussian bound on N(0,1)
ALL_REDUCE = 1.45  # through direct, over one encode, for any number of ranks; two independent encodes: √2


def verdicts(rows: Sequence[Row]) -> list[str]:
    """One line a promise that these rows can judge."""
    single = [r for r in rows if r["study"] == "one encode" and r["kind"] != "peer"]
    normal = {r["entry"]: r for r in single if r["input"] == "N(0,1)"}
    lines = [
        _line(f"{name} on N(0,1)", normal[name]["rel_err"], bar)
        for name, bar in BARS.items()
        if name in normal
    ]
    for name, bar in ROBUST.items():
        of_name = [r for r in single if r["entry"].partition("(")[0] == name and "unbiased" not in r["entry"]]
        if of_name:
            worst = max(of_name, key=lambda r: r["rel_err"])
            lines.append(_line(f"{name} on every input, worst on {worst['input']}", worst["rel_err"], bar))
    four = [r for r in normal.values() if 4 <= r["bits"] <= 4.6 and r["above_bound"] is not None]
    if four:
        best = min(four, key=lambda r: r["above_bound"])
        met = "met" if best["above_bound"] <= NEAR_BOUND else "MISSED"
        what = f"{best['above_bound']:.3f} bit above the bound at {best['bits']:.3f} bits"
        lines.append(f"{met}: best 4-bit code on N(0,1), {best['entry']}: {what}, bar {NEAR_BOUND}")
    reduced = [r for r in rows if r["study"] == "all-reduce"]
    if reduced:
        worst = max(reduced, key=lambda r: r["over_one_encode"])
        met = "met" if worst["over_one_encode"] <= ALL_REDUCE else "MISSED"
        what = f"{worst['over_one_encode']:.3f} ({worst['entry']}, {worst['ranks']} ranks)"
        lines.append(f"{met}: all-reduce over one encode, worst {what}, bar {ALL_REDUCE}")
    return lines


def _line(what: str, error: float, bar: float) -> str:
    return f"{'met' if error <= bar else 'MISSED'}: {what}: {error:.3%}, bar {bar:.2%}"
