"""A byte-level GPT and the text it learns: the Python standard library's own source. No download, no
tokenizer.
"""

from __future__ import annotations

import hashlib
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

_NOT_TEXT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "lib2to3"}


@dataclass(frozen=True)
class Text:
    """Bytes as one flat uint8 tensor each; every 20th file is held out. `digest` names the list of files
    and sizes."""

    train: torch.Tensor
    held_out: torch.Tensor
    files: int
    digest: str

    @staticmethod
    def of_stdlib() -> Text:
        root = Path(sysconfig.get_paths()["stdlib"])
        paths = sorted(p for p in root.rglob("*.py") if not _NOT_TEXT & set(p.relative_to(root).parts))
        texts = [p.read_bytes() for p in paths]
        names = "\n".join(f"{p.relative_to(root).as_posix()} {len(t)}" for p, t in zip(paths, texts))

        def flat(chosen: list[bytes]) -> torch.Tensor:
            return torch.frombuffer(bytearray(b"\n".join(chosen)), dtype=torch.uint8)

        return Text(
            train=flat([t for i, t in enumerate(texts) if i % 20]),
            held_out=flat(texts[::20]),
            files=len(paths),
            digest=hashlib.sha256(names.encode()).hexdigest()[:16],
        )

    def batch(
        self, seed: int, step: int, rank: int, size: int, context: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`size` random windows: the same for the same (seed, step, rank), whatever else the program
        draws."""
        draw = torch.Generator().manual_seed((seed * 1_000_003 + step) * 1009 + rank)
        starts = torch.randint(len(self.train) - context - 1, (size,), generator=draw)
        windows = torch.stack([self.train[s : s + context + 1] for s in starts.tolist()]).long()
        return windows[:, :-1], windows[:, 1:]


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, w = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(b, t, w))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class ByteGPT(nn.Module):
    """width 128, 4 layers: 0.87 million parameters."""

    def __init__(self, width: int = 128, layers: int = 4, heads: int = 4, context: int = 128) -> None:
        super().__init__()
        self.context = context
        self.embed, self.position = nn.Embedding(256, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256, bias=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                # Bytes that start far apart are learned early; blocks near the identity stay stable.
                residual = name.endswith(("proj.weight", "down.weight"))
                std = 0.2 if "blocks" not in name and "head" not in name else 0.02
                nn.init.normal_(p, std=std / (2 * layers) ** 0.5 if residual else std)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Bytes [b, t] and the bytes that follow [b, t] -> mean cross entropy in nats."""
        h = self.embed(x) + self.position.weight[: x.shape[1]]
        for block in self.blocks:
            h = block(h)
        return F.cross_entropy(self.head(self.norm(h)).flatten(0, 1), y.flatten())


@torch.no_grad()
def held_out_loss(model: ByteGPT, text: Text, windows: int = 128) -> float:
    """Over `windows` windows spread evenly over the held-out files."""
    stride = (len(text.held_out) - model.context - 1) // windows
    rows = torch.stack(
        [text.held_out[i * stride : i * stride + model.context + 1] for i in range(windows)]
    ).long()
    losses = [model(part[:, :-1], part[:, 1:]).item() * len(part) for part in rows.split(16)]
    return sum(losses) / windows
