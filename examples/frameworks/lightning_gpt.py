"""Lightning: a callback attaches gradwire to the DDP model that the strategy has made.

python examples/frameworks/lightning_gpt.py --devices 2
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy

import gradwire.torch

sys.path.append(str(Path(__file__).parent.parent))
from byte_gpt import ByteGPT, Text  # lies one folder up


class CompressedGradients(lightning.Callback):
    """Works on CPU as on any device; `DDPStrategy(ddp_comm_hook=...)` would be ignored on CPU."""

    def __init__(self, codec: Any = "int8", **options: Any) -> None:
        self.codec, self.options, self.handle = codec, options, None

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.handle = gradwire.torch.attach(trainer.strategy.model, self.codec, **self.options)

    def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["gradwire"] = self.handle.state_dict()  # rank 0's; all ranks': a distributed checkpoint

    def on_train_end(self, trainer: Any, module: Any) -> None:
        stats = self.handle.stats()
        if trainer.is_global_zero:
            print(f"{stats.steps} averages, {stats.ratio:.1f} times less than dense")
        self.handle.close()


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = ByteGPT()

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        return self.model(*batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class Windows(torch.utils.data.IterableDataset):
    """Lightning cannot cut a stream by rank, so it does it itself."""

    def __init__(self, text: Text, steps: int) -> None:
        self.text, self.steps = text, steps

    def __iter__(self) -> Any:
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        return (self.text.batch(0, step, rank, 8, 128) for step in range(self.steps))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--devices", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(1)
    lightning.seed_everything(0, verbose=False)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=args.devices,
        strategy=DDPStrategy(process_group_backend="gloo"),
        callbacks=[CompressedGradients("int8")],
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = torch.utils.data.DataLoader(Windows(Text.of_stdlib(), args.steps), batch_size=None)
    trainer.fit(Module(), loader)


if __name__ == "__main__":
    main()
