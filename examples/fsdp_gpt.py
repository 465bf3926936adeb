"""Sharded training (FSDP2, HSDP with --replicas) with coded collectives. One line differs from plain FSDP2.

torchrun --nproc-per-node 2 examples/fsdp_gpt.py --reduce-scatter int8 --all-gather bf16 --steps 20
torchrun --nproc-per-node 4 examples/fsdp_gpt.py --replicas 2 --all-reduce int4
"""

from __future__ import annotations

import argparse

import torch
import torch.distributed as dist
from byte_gpt import ByteGPT, Text, held_out_loss
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import gradwire.torch


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reduce-scatter", default="int8", help="of gradients: int8, int4, ... or none")
    parser.add_argument("--all-gather", default="bf16", help="of parameters: bf16, int8, ... or none")
    parser.add_argument("--all-reduce", default="int8", help="of gradients over the replicas")
    parser.add_argument("--replicas", type=int, default=1, help="HSDP: copies of the sharded model")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    codecs = [None if c == "none" else c for c in (args.reduce_scatter, args.all_gather, args.all_reduce)]

    torch.set_num_threads(1)
    gradwire.torch.init_process_group("gloo")
    torch.manual_seed(args.seed)
    model, text = ByteGPT(layers=args.layers), Text.of_stdlib()
    shape = (args.replicas, dist.get_world_size() // args.replicas)
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard"))
    mesh = mesh if args.replicas > 1 else mesh["shard"]
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    handle = gradwire.torch.fsdp.apply(model, *codecs)  # <- the one line

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    for step in range(args.steps):
        x, y = text.batch(args.seed, step, dist.get_rank(), 8, model.context)
        optimizer.zero_grad()
        loss = model(x, y)
        loss.backward()
        optimizer.step()
        if dist.get_rank() == 0 and (step + 1) % 5 == 0:
            print(f"step {step + 1:4d}  loss {loss.item():.3f}", flush=True)

    stats = handle.stats()
    held_out = held_out_loss(model, text, windows=32)  # all ranks: each module gathers its parameters
    if dist.get_rank() == 0:
        print(f"held-out loss {held_out:.3f}")
        print(", ".join(f"{n} {collective}" for collective, n in stats.calls.items()))
        print(f"{stats.bytes_sent / 1e6:.2f} MB sent, {stats.ratio:.1f} times less than without codecs")
    dist.barrier()
    handle.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
