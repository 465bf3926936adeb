"""How much of communication the backward pass hides: two hosts in namespaces on a slow cable. Needs root.

    sudo python benchmarks/overlap.py --rate 200mbit --entries none,int8,int4,int4:next-batch

Each round times three things in turn: a step without communication (under DDP all the same, with a hook that
returns every bucket as it came), the same buckets' communication without computation, and the whole step.
With perfect overlap the step takes as long as the longer of the two. `--batches`: windows of 128 bytes that a
rank learns from in a step; more of them are more computation and the same communication.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lab import Lab, why_not

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
sys.path.insert(0, str(ROOT / "examples"))


def worker(rank: int, address: str, entry: str, batch: int, args: Any) -> None:
    import torch
    import torch.distributed as dist
    from byte_gpt import ByteGPT, Text
    from torch.nn.parallel import DistributedDataParallel

    import gradwire.torch

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://{address}:29611", rank=rank, world_size=2)
    torch.manual_seed(0)
    ddp, quiet = (DistributedDataParallel(ByteGPT(width=512, layers=5)) for _ in range(2))
    name, _, overlap = entry.partition(":")
    codec = None if name == "none" else name
    size = {"bucket_cap_mb": args.bucket_mb} if args.bucket_mb else {}
    handle = gradwire.torch.attach(ddp, codec, overlap=overlap or "backward", **size)
    optimizers = {id(m): torch.optim.SGD(m.parameters(), lr=0.01) for m in (ddp, quiet)}
    x, y = Text.of_stdlib().batch(0, 0, rank, batch, 128)

    def keep(_, bucket):  # type: ignore[no-untyped-def]  # DDP wants its own classes as annotations, or none
        future: Any = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    quiet.register_comm_hook(None, keep)

    def step(model: Any = ddp) -> None:
        optimizers[id(model)].zero_grad()
        model(x, y).backward()
        optimizers[id(model)].step()

    def alone() -> None:
        step(quiet)

    buckets: list[Any] = []

    def communicate() -> None:
        works = [handle.comm.all_reduce(b, op="avg", codec=codec, async_op=True) for b in buckets]
        for work in works:
            work.wait()

    times: dict[str, list[float]] = {"compute": [], "communication": [], "step": []}
    for _ in range(3):  # DDP regroups its buckets after the first
        step()
        alone()
    file = RESULTS / f"overlap-{entry.replace(':', '-')}-{batch}.json"  # of rank 0: the other's looks alike
    with handle.trace(os.devnull if rank else file) as trace:
        step()
        step()
        handle.stats()  # waits for what is under way
    sizes = [numel for _, _, _, numel in sorted(trace.buckets, key=lambda b: b[1])]
    buckets += [torch.randn(numel) for numel in sizes[: len(sizes) // 2]]
    for _ in range(args.rounds):
        for what, run in (("compute", alone), ("communication", communicate), ("step", step)):
            runs = 3 if overlap and what == "step" else 1  # what one step leaves running, the next waits for
            dist.barrier()
            begin = time.perf_counter()
            for _ in range(runs):
                run()
            if what == "step":
                handle.stats()
            times[what].append((time.perf_counter() - begin) / runs)
    if rank == 0:
        computed, under_way = [c[:2] for c in trace.computed], [b[1:3] for b in trace.buckets]
        spans = {"computed": computed, "buckets": under_way}
        print(json.dumps({"seconds": times, "spans": spans}), flush=True)
    handle.close()
    dist.destroy_process_group()


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(rows), 1, figsize=(9, 1.5 * len(rows)), sharex=True, squeeze=False)
    for axis, row in zip(axes[:, 0], rows):
        zero = min(b for b, _ in row["spans"]["computed"])
        for y, kind, colour in ((1, "computed", "tab:gray"), (0, "buckets", "tab:blue")):
            bars = [((b - zero) * 1e3, (e - b) * 1e3) for b, e in row["spans"][kind]]
            axis.broken_barh(bars, (y - 0.4, 0.8), color=colour, edgecolor="white", alpha=0.8)
        axis.set_yticks([0, 1], ["buckets", "backward"])
        title = f"{row['entry']}, batch {row['batch']}: step / longer of the two = {row['ratio']:.2f}"
        axis.set_title(title, fontsize=9)
    axes[-1, 0].set_xlabel("ms (two steps; buckets from ready to done)")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--rate", default="200mbit")
    parser.add_argument("--entries", default="none,int8,int4,int4:next-batch", help="codec, or codec:overlap")
    parser.add_argument("--batches", default="2", help="windows a rank, one or several")
    parser.add_argument("--bucket-mb", type=float, default=0.0, help='attach\'s bucket_cap_mb; 0: "auto"')
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        rank, address, entry, batch = args.worker
        worker(int(rank), address, entry, int(batch), args)
        return 0
    if why_not():
        print(f"no lab here: {why_not()}", file=sys.stderr)
        return 1
    RESULTS.mkdir(exist_ok=True)
    rows = []
    with Lab(2, args.rate, name="gwov") as lab:
        for entry, batch in itertools.product(args.entries.split(","), map(int, args.batches.split(","))):
            env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0"}
            options = [f"--rounds={args.rounds}", f"--bucket-mb={args.bucket_mb}"]
            command = [sys.executable, __file__, *options, "--worker"]
            ranks = [
                lab.start(
                    r, [*command, str(r), lab.address(0), entry, str(batch)], env=env, stdout=subprocess.PIPE
                )
                for r in range(2)
            ]
            out = [p.communicate(timeout=110)[0] for p in ranks]
            if any(p.returncode for p in ranks):
                print(f"{entry}: a rank failed", file=sys.stderr)
                return 1
            settings = {
                "entry": entry,
                "batch": batch,
                "rate": args.rate,
                "bucket_mb": args.bucket_mb or "auto",
            }
            row = {**settings, **json.loads(out[0])}
            middle = {what: statistics.median(v) for what, v in row["seconds"].items()}
            row["ratio"] = middle["step"] / max(middle["compute"], middle["communication"])
            rows.append(row)
            shown = ", ".join(f"{what} {s * 1e3:.0f} ms" for what, s in middle.items())
            print(
                f"{entry:18} batch {batch}: {shown}; step / longer of the two {row['ratio']:.2f}", flush=True
            )
    command_line = " ".join(["python benchmarks/overlap.py", *sys.argv[1:]])
    run = {"command": command_line, "host": os.uname().nodename, "cores": os.cpu_count(), "ranks": 2}
    lines = [json.dumps({**{k: v for k, v in row.items() if k != "spans"}, "run": run}) for row in rows]
    (RESULTS / "overlap.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw(rows, RESULTS / "overlap.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
