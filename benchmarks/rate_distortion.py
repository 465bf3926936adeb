"""Relative L2 error against bits per element: every codec, and peers where they can be imported.

    python benchmarks/rate_distortion.py                 measure, print a table, draw: a minute or two
    python benchmarks/rate_distortion.py --only 'int*'   some codecs (patterns of what a codec prints)
    python benchmarks/rate_distortion.py --draw          table and pictures of the results that are there

One encode on four distributions and on real gradients, beside the Gaussian bound D(R) = 2^(-2R); then the
error of an all-reduce through `direct` on 2 to 64 ranks over that of one encode. Needs torch, rich and
matplotlib; for the peers: pip install torchao bitsandbytes.
"""

from __future__ import annotations

import argparse
import fnmatch
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from studies import inputs
from studies import rows as jsonl
from studies.bars import ALL_REDUCE, verdicts
from studies.codecs import is_sparse, listed
from studies.peers import importable
from studies.rate_plots import all_reduce as draw_all_reduce
from studies.rate_plots import curves as draw_curves
from studies.rows import Row

import gradwire
from gradwire.testing import run_ranks

RESULTS = Path(__file__).parent / "results"


def relative(y: np.ndarray, x: np.ndarray) -> float:
    """L2 norm of y - x over that of x, summed in fp64."""
    return float(np.linalg.norm((y - x).astype(np.float64)) / np.linalg.norm(x.astype(np.float64)))


def entry(name: str, kind: str, bits: float, errors: list[float]) -> Row:
    """above_bound: bits more than the Gaussian bound needs for this error; null where nothing is lost."""
    error = float(np.mean(errors))
    return {
        "entry": name,
        "kind": kind,
        "bits": bits,
        "rel_err": error,
        "rel_err_by_seed": errors,
        "above_bound": bits + math.log2(error) if error > 0 else None,
    }


def one_encode(name: str, codecs: list[gradwire.Codec], args: argparse.Namespace) -> Iterator[Row]:
    """Every codec and peer on one input."""
    make = inputs.gradients if name == inputs.GRADIENTS else None
    drawn = [make(s) if make else inputs.synthetic(name, s, args.count) for s in args.seeds]
    count = len(drawn[0])
    about = {"study": "one encode", "input": name, "count": count, "seeds": args.seeds}
    defaults = {repr(gradwire.codec(c)) for c in gradwire.codecs()}
    for codec in codecs:
        errors, size = [], 0
        for x in drawn:
            frame = gradwire.encode(x, codec)
            size = max(size, len(frame) - 64)  # the header is 64 bytes
            errors.append(relative(np.asarray(gradwire.decode(frame)), x))
        kind = "sparse" if is_sparse(codec.name) else "dense"
        made = entry(repr(codec), kind, 8 * size / count, errors)
        yield {**about, **made, "default": repr(codec) in defaults}
    whole = count - count % 2048  # peers want whole blocks
    for peer, bits, trip in args.peers:
        errors = [relative(trip(torch.from_numpy(x[:whole])).numpy(), x[:whole]) for x in drawn]
        yield {**about, "count": whole, **entry(peer, "peer", bits, errors), "default": False}


def all_reduce(codec: gradwire.Codec, ranks: int, args: argparse.Namespace) -> Row:
    """The error of a sum of N(0,1) through `direct`, relative to the exact sum, over that of one encode."""
    errors, singles = [], []
    for seed in args.seeds:
        draws = [np.random.default_rng((seed, r)) for r in range(ranks)]
        x = [draw.standard_normal(args.reduce_count).astype(np.float32) for draw in draws]
        exact = np.sum(np.stack(x), axis=0, dtype=np.float64)

        def rank(comm: gradwire.Communicator, x: list[np.ndarray] = x) -> np.ndarray:
            return comm.all_reduce(x[comm.rank].copy(), codec=codec, algorithm="direct")

        results = run_ranks(ranks, rank, channel_bytes=1 << 16, segment_bytes=1 << 14, spin_us=0)
        if any(r.tobytes() != results[0].tobytes() for r in results):
            raise RuntimeError(f"{codec!r} on {ranks} ranks: replicas differ")
        errors.append(relative(results[0], exact))
        singles.append(relative(np.asarray(gradwire.decode(gradwire.encode(x[0], codec))), x[0]))
    ratios = [e / s for e, s in zip(errors, singles)]
    return {
        "study": "all-reduce",
        "entry": repr(codec),
        "algorithm": "direct",
        "ranks": ranks,
        "count": args.reduce_count,
        "seeds": args.seeds,
        "rel_err": float(np.mean(errors)),
        "over_one_encode": float(np.mean(ratios)),
        "over_one_encode_by_seed": ratios,
    }


def measured(args: argparse.Namespace, console: Console) -> list[Row]:
    codecs, refused = listed()
    codecs = [c for c in codecs if any(fnmatch.fnmatchcase(repr(c), p.strip()) for p in args.only.split(";"))]
    if not codecs:
        sys.exit(f"--only {args.only!r} fits none of: {'; '.join(map(repr, listed()[0]))}")
    args.peers, missing = importable() if args.peers else ([], [])
    for line in (*(f"not in this build: {r}" for r in refused), *(f"no {m}" for m in missing)):
        console.print(line, style="yellow")
    about = jsonl.run_of(__file__)
    rows: list[Row] = []
    for name in track(args.inputs, "one encode", console=console):
        rows += [{**row, "run": about} for row in one_encode(name, codecs, args)]
    # one setting a codec: its default
    defaults = {c.name: c for c in reversed(codecs) if c.lossy}
    jobs = [(c, n) for c in defaults.values() for n in args.ranks]
    for codec, ranks in track(jobs, "all-reduce", console=console):
        rows.append({**all_reduce(codec, ranks, args), "run": about})
    return rows


def table_of(rows: list[Row]) -> Table:
    names = list(dict.fromkeys(r["input"] for r in rows))
    table = Table(title="relative L2 error of one encode, %; beside it the bits above the Gaussian bound")
    for heading in ("codec", "bits", *names):
        table.add_column(
            heading, justify="left" if heading == "codec" else "right", no_wrap=heading == "codec"
        )
    by_entry: dict[str, dict[str, Row]] = {}
    for r in sorted(rows, key=lambda r: (r["kind"] == "peer", -r["bits"])):
        by_entry.setdefault(r["entry"], {})[r["input"]] = r
    for name, cells in by_entry.items():
        first = next(iter(cells.values()))
        table.add_row(
            name,
            f"{first['bits']:.3f}",
            *(_cell(cells.get(n)) for n in names),
            style="dim" if first["kind"] == "peer" else None,
        )
    return table


def _cell(row: Row | None) -> str:
    if row is None or row["rel_err"] is None:
        return "-"
    if row["rel_err"] == 0:
        return "exact"
    return f"{100 * row['rel_err']:#.3g} ({row['above_bound']:.2f})"


def reduce_table(rows: list[Row]) -> Table:
    sizes = sorted({r["ranks"] for r in rows})
    table = Table(title=f"all-reduce through direct: error over one encode's (bar {ALL_REDUCE}; mean)")
    for heading in ("codec", *(f"n = {n}" for n in sizes)):
        table.add_column(heading, justify="left" if heading == "codec" else "right")
    for name in dict.fromkeys(r["entry"] for r in rows):
        ratio = {r["ranks"]: r["over_one_encode"] for r in rows if r["entry"] == name}
        cells = [f"{ratio[n]:.3f}{' over' if ratio[n] > ALL_REDUCE else ''}" for n in sizes if n in ratio]
        table.add_row(name, *cells)
    return table


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def numbers(text: str) -> list[int]:
        return [int(word) for word in text.split(",")]

    parser.add_argument("--only", default="*", help="patterns of codecs, between semicolons")
    parser.add_argument("--seeds", default="0,1,2", type=numbers)
    everything = ";".join((*inputs.SYNTHETIC, inputs.GRADIENTS))
    parser.add_argument("--inputs", default=everything, help=f"some of {everything}")
    parser.add_argument("--count", type=int, default=1 << 20, help="elements of each distribution")
    parser.add_argument("--ranks", default="2,4,8,16,32,64", type=numbers, help="of the all-reduce")
    parser.add_argument("--reduce-count", type=int, default=1 << 17, help="elements of the all-reduce")
    parser.add_argument("--no-peers", dest="peers", action="store_false")
    parser.add_argument("--draw", action="store_true", help="measure nothing")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON lines and the pictures")
    args = parser.parse_args()
    args.inputs = args.inputs.split(";")
    if unknown := set(args.inputs) - set(everything.split(";")):
        parser.error(f"unknown input {', '.join(sorted(unknown))}; known: {everything}")
    torch.set_num_threads(1)
    console = Console() if sys.stdout.isatty() else Console(width=150)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "rate_distortion.jsonl"
    if not args.draw:
        jsonl.write(path, measured(args, console))
    rows = jsonl.read(path)
    if not rows:
        sys.exit(f"{path} has no results: run without --draw")
    single = [r for r in rows if r["study"] == "one encode"]
    reduced = [r for r in rows if r["study"] == "all-reduce"]
    console.print(table_of(single))
    console.print(reduce_table(reduced))
    for line in verdicts(rows):
        console.print(line, style="bold red" if line.startswith("MISSED") else None)
    draw_curves(args.out / "rate_distortion.png", single)
    draw_all_reduce(args.out / "all_reduce_error.png", reduced, ALL_REDUCE)
    for name in ("rate_distortion.jsonl", "rate_distortion.png", "all_reduce_error.png"):
        console.print(str(args.out / name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
