"""Data-parallel training of a convolutional network on images, the codec chosen by layer.

torchrun --nproc-per-node 2 examples/ddp_vision.py --epochs 4     # or gradwire run, or mpirun

The images are the 1,797 handwritten digits that come with scikit-learn: no download.
"""

from __future__ import annotations

import argparse

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import gradwire.torch

# first match wins; norms and biases are few and small, the classifier sees every gradient first
CODECS = {"*.bias": None, "*norm*": None, "classifier.*": "int8", "*": "int4"}


class DigitNet(nn.Module):
    """[b, 1, 8, 8] -> [b, 10]; 0.14 million parameters."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stem, self.norm1 = nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv1, self.norm2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.norm3 = nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width)
        self.classifier = nn.Linear(2 * width * 4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm1(self.stem(x)))
        x = F.max_pool2d(F.relu(x + self.norm2(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.norm3(self.conv2(x))), 2)
        return self.classifier(x.flatten(1))


def digits() -> tuple[TensorDataset, TensorDataset]:
    """Every fifth image is held out."""
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(found.target)
    held_out = torch.arange(len(labels)) % 5 == 0
    kept, out = (TensorDataset(images[where], labels[where]) for where in (~held_out, held_out))
    return kept, out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.set_num_threads(1)
    gradwire.torch.init_process_group("gloo")
    torch.manual_seed(args.seed)
    train, held_out = digits()
    ddp = DistributedDataParallel(DigitNet().to(memory_format=torch.channels_last))
    handle = gradwire.torch.attach(ddp, codec=CODECS)  # <- the one line

    sampler = DistributedSampler(train, seed=args.seed)
    loader = DataLoader(train, batch_size=32, sampler=sampler, drop_last=True)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=args.epochs * len(loader))
    for epoch in range(args.epochs):
        sampler.set_epoch(epoch)
        for images, labels in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(ddp(images.to(memory_format=torch.channels_last)), labels)
            loss.backward()
            optimizer.step()
            schedule.step()
        if dist.get_rank() == 0:
            print(f"epoch {epoch + 1}  loss {loss.item():.3f}", flush=True)

    if dist.get_rank() == 0:
        ddp.module.eval()
        images, labels = held_out.tensors
        with torch.no_grad():
            accuracy = (ddp.module(images).argmax(1) == labels).float().mean().item()
        stats = handle.stats()
        print(f"held-out accuracy {accuracy:.1%}")
        print(f"{stats.bytes_per_step / 1e3:.0f} kB sent a step, {stats.ratio:.1f} times less than dense")
    handle.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
