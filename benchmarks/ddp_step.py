"""Step time of DDP training between two hosts, by what averages the gradients. Needs root.

    sudo python benchmarks/ddp_step.py --rates 200mbit,1gbit --rounds 3

A transformer of 17 million parameters (`--dim`, `--layers`), one rank in each of two namespaces, one thread
each. All entries live in the same two processes; every round gives each of them `--steps` steps, in an order
that turns by one, and the median of those is the round's figure. "compute" is the same step without
communication. "none", "fp16", "bf16" and "powersgd1" are torch's own hooks over Gloo (powersgd1 issues
collectives from callbacks, whose order may differ on two ranks, and then the run breaks); entries that begin
with "gw:" are codecs of `gradwire.torch.attach` ("gw:none": codec=None), and may end in "/next-batch" for
that overlap and in "/25mb" for DDP's bucket_cap_mb.

Columns: ms a step, median of the rounds, and half their interquartile range as a share of it; its ratio to
compute only and to "none", medians of the ratios within one round; CPU ms of the process a step over those of
compute only; MB sent a step, as the network device counted them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab import BURST, Lab, why_not

from gradwire.bench import report
from gradwire.bench.report import Column, percent, significant

ENTRIES = "compute,none,bf16,gw:none,gw:int8,gw:int4,gw:rice4,gw:int2,gw:topk(ratio=0.01),gw:auto"
VOCABULARY, LENGTH = 4096, 128
COLUMNS = [
    Column("entry", "entry", left=True),
    Column("ms", "ms", significant(3)),
    Column("spread", "+-", percent),
    Column("over_compute", "/ compute", significant(3)),
    Column("faster_than_none", "none /", significant(3)),
    Column("cpu_ms", "CPU ms", significant(3)),
    Column("sent_mb", "MB", significant(3)),
]


def model(dim: int, layers: int) -> Any:
    import torch
    from torch import nn

    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, dim)
            self.position = nn.Parameter(torch.zeros(LENGTH, dim))
            block = nn.TransformerEncoderLayer(
                dim, dim // 64, 4 * dim, 0.0, "gelu", batch_first=True, norm_first=True
            )
            self.blocks = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
            self.head = nn.Linear(dim, VOCABULARY, bias=False)
            mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
            self.register_buffer("mask", mask, persistent=False)

        def forward(self, x: Any) -> Any:
            h = self.embedding(x) + self.position
            return self.head(self.blocks(h, mask=self.mask, is_causal=True))

    return Transformer()


def register(entry: str, args: argparse.Namespace) -> tuple[Any, Callable[[], object]]:
    """(the DDP model of one entry, what waits for all that it has left running)."""
    import torch
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
    from torch.nn.parallel import DistributedDataParallel

    import gradwire.torch

    codec, *options = entry.removeprefix("gw:").split("/")
    size = next((int(o.removesuffix("mb")) for o in options if o.endswith("mb")), None)
    torch.manual_seed(0)
    # init_sync: to send 68 MB at 200 Mbit/s takes seconds, and one seed makes the models equal anyway
    ddp = DistributedDataParallel(model(args.dim, args.layers), bucket_cap_mb=size, init_sync=False)

    # without annotations: DDP wants its own classes there
    def local(_, bucket):  # type: ignore[no-untyped-def]
        future: Any = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    def bf16(_, bucket):  # type: ignore[no-untyped-def]  # under its own name DDP refuses it on CPUs
        return default_hooks.bf16_compress_hook(None, bucket)

    if entry.startswith("gw:"):
        overlap = "next-batch" if "next-batch" in options else "backward"
        handle = gradwire.torch.attach(ddp, None if codec == "none" else codec, overlap=overlap)
        return ddp, handle.stats
    if entry == "powersgd1":
        rank1 = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=1, start_powerSGD_iter=2)
        ddp.register_comm_hook(rank1, powerSGD_hook.powerSGD_hook)
    elif entry != "none":
        ddp.register_comm_hook(
            None, {"compute": local, "fp16": default_hooks.fp16_compress_hook, "bf16": bf16}[entry]
        )
    return ddp, lambda: None


def sent_bytes() -> int:
    lines = Path("/proc/net/dev").read_text(encoding="utf-8").splitlines()
    return sum(int(line.split()[9]) for line in lines if line.strip().startswith("eth0"))


def worker(rank: int, address: str, args: argparse.Namespace) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://{address}:29612", rank=rank, world_size=2)
    random = torch.Generator().manual_seed(rank)
    x = torch.randint(0, VOCABULARY, (max(1, args.tokens // LENGTH), LENGTH), generator=random)
    entries = re.split(r",(?![^(]*\))", args.entries)
    made = {entry: register(entry, args) for entry in entries}
    optimizers = {entry: torch.optim.SGD(ddp.parameters(), lr=0.01) for entry, (ddp, _) in made.items()}

    def step(entry: str) -> tuple[float, float, float]:
        """(seconds, CPU seconds, bytes sent)"""
        ddp, optimizer = made[entry][0], optimizers[entry]
        dist.barrier()
        before = time.perf_counter(), time.process_time(), sent_bytes()
        optimizer.zero_grad(set_to_none=False)
        torch.nn.functional.cross_entropy(ddp(x).flatten(0, 1), x.flatten()).backward()
        optimizer.step()
        return (
            time.perf_counter() - before[0],
            time.process_time() - before[1],
            float(sent_bytes() - before[2]),
        )

    for entry in entries:  # DDP regroups its buckets after the first step, PowerSGD starts at the third
        for _ in range(args.warmup):
            step(entry)
        made[entry][1]()
    rounds: dict[str, list[tuple[float, ...]]] = {entry: [] for entry in entries}
    for k in range(args.rounds):
        for entry in entries[k % len(entries) :] + entries[: k % len(entries)]:
            steps = [step(entry) for _ in range(args.steps)]
            made[entry][1]()
            rounds[entry].append(tuple(statistics.median(column) for column in zip(*steps)))
    parameters = sum(p.numel() for p in made[entries[0]][0].parameters())
    if rank == 0:
        print(json.dumps({"parameters": parameters, "rounds": rounds}), flush=True)
    dist.barrier()
    os._exit(0)  # eleven models, their groups and communicators end with the process


def rows_of(rate: str, result: dict[str, Any]) -> list[dict[str, Any]]:
    rounds = result["rounds"]

    def ratio(entry: str, to: str, invert: bool = False) -> float | None:
        if to not in rounds:
            return None
        pairs = zip(rounds[entry], rounds[to])
        return statistics.median((b[0] / a[0]) if invert else (a[0] / b[0]) for a, b in pairs)

    base = statistics.median(r[1] for r in rounds["compute"]) if "compute" in rounds else 0.0
    return [
        {
            "rate": rate,
            "entry": entry,
            "parameters": result["parameters"],
            "ms": 1e3 * statistics.median(r[0] for r in rounds[entry]),
            "spread": report.spread([r[0] for r in rounds[entry]]),
            "over_compute": ratio(entry, "compute"),
            "faster_than_none": ratio(entry, "none", invert=True),
            "cpu_ms": 1e3 * (statistics.median(r[1] for r in rounds[entry]) - base),
            "sent_mb": statistics.median(r[2] for r in rounds[entry]) / 1e6,
            "rounds_ms": [round(1e3 * r[0], 1) for r in rounds[entry]],
        }
        for entry in rounds
    ]


def measure(rate: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    options = [f"--{name}={getattr(args, name)}" for name in ("entries", "dim", "layers", "tokens")]
    options += [f"--{name}={getattr(args, name)}" for name in ("steps", "rounds", "warmup")]
    with Lab(2, None if rate == "off" else rate, args.burst, name="gwdd") as lab:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0", "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, __file__, *options, "--worker"]
        ranks = [
            lab.start(r, [*command, str(r), lab.address(0)], env=env, stdout=subprocess.PIPE)
            for r in range(2)
        ]
        try:
            out = [p.communicate(timeout=args.timeout)[0] for p in ranks]
        finally:
            for p in ranks:
                p.kill()
    if any(p.returncode for p in ranks):
        raise SystemExit(f"{rate}: a rank failed")
    return rows_of(rate, json.loads(out[0].strip().splitlines()[-1]))


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--rates", default="200mbit,1gbit,10gbit,off", help="as tc writes them, or off")
    parser.add_argument("--entries", default=ENTRIES)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256, help="of a rank in a step")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=4, help="steps of each entry before the first round")
    parser.add_argument("--burst", default=BURST, help="of the token bucket, in kb")
    parser.add_argument("--timeout", type=float, default=1200, help="seconds for all entries at one rate")
    parser.add_argument("--json", help="append one line per entry and rate to this file")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(int(args.worker[0]), args.worker[1], args)
        return 0
    if why_not():
        print(f"no lab here: {why_not()}", file=sys.stderr)
        return 1
    command = " ".join(["python benchmarks/ddp_step.py", *sys.argv[1:]])
    run = {"command": command, "host": os.uname().nodename, "cores": os.cpu_count(), "ranks": 2}
    for rate in args.rates.split(","):
        rows = measure(rate, args)
        parameters = rows[0]["parameters"] / 1e6
        report.print_table(COLUMNS, rows, f"{rate}, {parameters:.1f} million parameters", [])
        if args.json:
            report.write_json(args.json, rows, run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
