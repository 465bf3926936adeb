"""The ranks of demo.py: one process trains with every codec in turn and reports JSON lines on rank 0's
stdout.

Started by demo.py through torchrun. What a rank reports is measured there: bytes by gradwire's counters,
and beside them by the kernel, from TCP_INFO of the sockets that gradwire opened."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import socket
import stat
import struct
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import gradwire.torch

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from byte_gpt import ByteGPT, Text, held_out_loss
from ddp_gpt import train

# Offset in struct tcp_info (linux/tcp.h, since 4.1): payload bytes that the peer's kernel has acknowledged.
_BYTES_ACKED = 120


def tcp_sockets() -> dict[int, socket.socket]:
    """This process's connected TCP sockets, by inode, as duplicates that may be closed at will."""
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        try:
            status = os.fstat(int(entry))
            if not stat.S_ISSOCK(status.st_mode):
                continue
            s = socket.socket(fileno=os.dup(int(entry)))
        except OSError:
            continue  # the descriptor of the listing itself, or one closed meanwhile
        if s.family in (socket.AF_INET, socket.AF_INET6) and s.type == socket.SOCK_STREAM:
            found[status.st_ino] = s
        else:
            s.close()
    return found


def acked(sockets: dict[int, socket.socket]) -> int:
    infos = [s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256) for s in sockets.values()]
    return sum(
        struct.unpack_from("Q", info, _BYTES_ACKED)[0] for info in infos if len(info) >= _BYTES_ACKED + 8
    )


def digest(model: torch.nn.Module) -> str:
    h = hashlib.sha256()
    for p in model.parameters():
        h.update(p.detach().contiguous().numpy().tobytes())
    return h.hexdigest()[:16]


def total(x: float) -> float:
    t = torch.tensor(x, dtype=torch.float64)
    dist.all_reduce(t)
    return t.item()


def one_training(
    args: argparse.Namespace, text: Text, run: tuple[str, str | None, int], seed: int
) -> dict[str, Any]:
    """A fresh model from `seed`, trained with one codec. The clock stands still during evaluations."""
    name, codec, warmup = run
    rank, size = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(seed)
    ddp = DistributedDataParallel(ByteGPT(args.width, args.layers), bucket_cap_mb=args.bucket_mb)
    others = tcp_sockets()  # torch's
    handle = gradwire.torch.attach(
        ddp, codec=codec, warmup_steps=warmup, transport="tcp", min_numel=args.min_numel
    )
    wires = {inode: s for inode, s in tcp_sockets().items() if inode not in others}
    before = acked(wires)

    curve, sent, seconds, exposed, steps_s = [], 0, 0.0, 0.0, []
    begin = time.perf_counter()
    for step, loss in enumerate(train(ddp, text, args.steps, seed, args.batch), start=1):
        steps_s.append(time.perf_counter() - begin)
        stats = handle.stats()
        sent += stats.last_bytes
        exposed += stats.last_exposed_s
        seconds += steps_s[-1]
        if step % args.every == 0 or step == args.steps:
            curve.append(
                {"step": step, "loss": held_out_loss(ddp.module, text, 64), "bytes": sent, "seconds": seconds}
            )
        if rank == 0:
            print(json.dumps({"at": name, "seed": seed, "step": step, "loss": loss}), flush=True)
        begin = time.perf_counter()

    hashes: list[Any] = [None] * size
    dist.all_gather_object(hashes, digest(ddp.module))
    dist.barrier()  # all sent and read: the last acknowledgement is in
    stats = handle.stats()
    kernel = total(acked(wires) - before)
    reported = total(stats.bytes_per_step * stats.steps)
    result = {
        "codec": name,
        "seed": seed,
        "ranks": size,
        "steps": args.steps,
        "warmup_steps": warmup,
        "params": sum(p.numel() for p in ddp.parameters()),
        "held_out_loss": held_out_loss(ddp.module, text, 256),
        "bytes_per_step": stats.last_bytes,  # of the last step: after the warm-up
        "dense_bytes_per_step": stats.last_dense_bytes,
        "ratio": stats.last_dense_bytes / stats.last_bytes if stats.last_bytes else 1.0,
        "step_s": sorted(steps_s)[len(steps_s) // 2],
        "exposed_s": exposed / args.steps,
        "reported_bytes_all_ranks": reported,
        "kernel_bytes_all_ranks": kernel,
        "hashes": hashes,
        "curve": curve,
    }
    for s in wires.values():
        s.close()
    handle.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--runs", type=json.loads, required=True, help="[[name, codec or null, warm-up steps], ...]"
    )
    parser.add_argument("--seeds", type=json.loads, default=[0])
    for name, default in (
        ("steps", 120),
        ("batch", 8),
        ("every", 10),
        ("width", 128),
        ("layers", 4),
        ("min-numel", 1024),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--bucket-mb", type=float, default=1.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    text = Text.of_stdlib()
    if dist.get_rank() == 0:
        sizes = {"files": text.files, "train_bytes": len(text.train), "held_out_bytes": len(text.held_out)}
        print(json.dumps({"text": text.digest, **sizes}), flush=True)
    for seed in args.seeds:
        for run in args.runs:
            result = one_training(args, text, run, seed)
            if dist.get_rank() == 0:
                print(json.dumps({"result": result}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
