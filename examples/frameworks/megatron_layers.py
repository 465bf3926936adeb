"""Megatron-Core: its tensor-parallel layers and its DDP over the backend "gradwire", 2 x 2 ranks.

torchrun --nproc-per-node 4 examples/frameworks/megatron_layers.py --codec int8

Megatron-Core has no hook for gradients, but takes its process groups as arguments: tp_group= of a layer,
pg_collection= of its DDP. Groups of backend "gradwire" with a codec make every sum in them coded. Its layers
may also be exchanged for gradwire.torch.ColumnParallelLinear and RowParallelLinear, which have a codec for
each direction.
"""

from __future__ import annotations

import argparse
import warnings

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

import gradwire.torch

warnings.filterwarnings("ignore")  # of what is not installed beside it
from megatron.core import parallel_state  # noqa: E402
from megatron.core.distributed import (  # noqa: E402
    DistributedDataParallel,
    DistributedDataParallelConfig,
)
from megatron.core.process_groups_config import ProcessGroupCollection  # noqa: E402
from megatron.core.tensor_parallel import (  # noqa: E402
    ColumnParallelLinear,
    RowParallelLinear,
    model_parallel_cuda_manual_seed,
)
from megatron.core.transformer import TransformerConfig  # noqa: E402

WIDTH, HIDDEN = 64, 256


class MLP(torch.nn.Module):
    def __init__(self, config: TransformerConfig, tp: dist.ProcessGroup) -> None:
        super().__init__()
        how = {"config": config, "init_method": torch.nn.init.xavier_normal_, "bias": False, "tp_group": tp}
        self.up = ColumnParallelLinear(WIDTH, HIDDEN, gather_output=False, **how)
        self.down = RowParallelLinear(HIDDEN, WIDTH, input_is_parallel=True, skip_bias_add=False, **how)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.tanh(self.up(x)[0]))[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", default="gradwire", help="gradwire, or gloo to compare")
    parser.add_argument("--codec", default="int8", help="of all sums; or none")
    parser.add_argument("--steps", type=int, default=10)
    args = parser.parse_args()

    torch.set_num_threads(1)
    codec = None if args.codec == "none" else args.codec
    gradwire.torch.init_process_group("gloo")
    parallel_state.initialize_model_parallel(tensor_model_parallel_size=2)
    groups = ProcessGroupCollection.use_mpu_process_groups()
    if args.backend == "gradwire":  # <- the lines
        how = ("gradwire", gradwire.torch.ProcessGroupOptions(codec=codec))
        shape = (dist.get_world_size() // 2, 2)
        mesh = init_device_mesh(
            "cpu", shape, mesh_dim_names=("dp", "tp"), backend_override={"dp": how, "tp": how}
        )
        groups.tp, groups.dp, groups.dp_cp = mesh.get_group("tp"), mesh.get_group("dp"), mesh.get_group("dp")
    if not torch.cuda.is_available():  # Megatron-Core asks for the device of its buffers here
        torch.cuda.current_device = lambda: torch.device("cpu")
    else:
        model_parallel_cuda_manual_seed(0)

    torch.manual_seed(0)
    config = TransformerConfig(
        num_layers=1, hidden_size=WIDTH, num_attention_heads=4, tensor_model_parallel_size=2,
        use_cpu_initialization=True, params_dtype=torch.float32, gradient_accumulation_fusion=False,
    )  # fmt: skip
    model = MLP(config, groups.tp)
    of_ddp = DistributedDataParallelConfig(overlap_grad_reduce=False)
    ddp = DistributedDataParallel(config, of_ddp, model, pg_collection=groups)
    parameters = list(model.parameters())
    truth = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(1)) / WIDTH**0.5
    for step in range(args.steps):
        seed = 1000 * step + parallel_state.get_data_parallel_rank()
        x = torch.randn(32, WIDTH, generator=torch.Generator().manual_seed(seed))
        ddp.zero_grad_buffer()
        loss = (ddp(x) - torch.tanh(x @ truth)).square().mean()
        loss.backward()
        ddp.finish_grad_sync()
        with torch.no_grad():
            for p in parameters:
                p.sub_(p.main_grad)
    total = sum(p.double().square().sum() for p in parameters)
    sums = [torch.zeros_like(total) for _ in range(parallel_state.get_data_parallel_world_size())]
    dist.all_gather(sums, total, group=groups.dp)
    if dist.get_rank() == 0:
        same = all(torch.equal(s, sums[0]) for s in sums)
        print(f"loss {loss.item():.9f}, replicas equal: {same}, over {dist.get_backend(groups.dp)}")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
