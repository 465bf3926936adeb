"""A codec of your own in Python: ternary gradients (TernGrad, Wen et al. 2017, arXiv:1705.07878), 1.6 bits
each.

    python examples/custom_codec.py                                 two ranks average with it
    cd examples && gradwire check-codec custom_codec:Ternary        is it fit for use?

Every value becomes -s, 0 or +s, with one scale s for 120 elements; five values share a byte, since 3^5 = 243.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import gradwire

BLOCK, GROUP = 120, 5
POWERS = 3 ** np.arange(GROUP)


class Ternary:
    name = "ternary"
    block = BLOCK

    def encoded_bytes(self, count: int) -> int:
        """A float32 scale and the bytes of each block; what is left over is sent as if it were a whole
        one."""
        return (4 + BLOCK // GROUP) * ((count + BLOCK - 1) // BLOCK)

    def encode(self, x: Any) -> Any:
        rows = np.concatenate([x, np.zeros(-x.size % BLOCK, np.float32)]).reshape(-1, BLOCK)
        size = np.abs(rows)
        # Lloyd's two levels for a bell curve: what is below 0.61 deviations becomes 0, the rest 1.22
        # deviations.
        deviation = np.sqrt((rows * rows).mean(axis=1, dtype=np.float32, keepdims=True))
        digits = np.where(size < np.float32(0.61) * deviation, 1, 1 + np.sign(rows))
        scale = np.float32(1.22) * deviation
        broken = ~np.isfinite(rows).all(axis=1)  # NaN and Inf must show: the whole block becomes NaN
        digits[broken], scale[broken] = 2, np.nan
        codes = (digits.reshape(-1, BLOCK // GROUP, GROUP) * POWERS).sum(axis=2).astype(np.uint8)
        return np.concatenate([scale.view(np.uint8), codes], axis=1).reshape(-1)

    def decode(self, payload: Any, count: int) -> Any:
        rows = payload.reshape(-1, 4 + BLOCK // GROUP)
        if (rows[:, 4:] >= 3**GROUP).any():
            raise ValueError("a byte above 242 holds no five digits")
        scale = np.ascontiguousarray(rows[:, :4]).view(np.float32)
        digits = rows[:, 4:, None] // POWERS % 3
        return ((digits.reshape(-1, BLOCK) - np.float32(1)) * scale).reshape(-1)[:count]


def main() -> None:
    gradwire.register_codec(Ternary)

    def rank(comm: gradwire.Communicator) -> tuple[float, float, int]:
        feedback = gradwire.ErrorFeedback()
        feedback.declare("w", 12_000)
        exact, sent = np.zeros(12_000), np.zeros(12_000)
        for step in range(20):
            gradients = [
                np.random.default_rng([step, r]).standard_normal(12_000, np.float32) for r in range(2)
            ]
            exact += np.mean(gradients, axis=0)
            with feedback.borrow("w") as residual:
                sent += comm.all_reduce(gradients[comm.rank], op="avg", codec="ternary", residual=residual)
        error = np.linalg.norm(sent - exact) / np.linalg.norm(exact)
        return float(error), float(sent.sum()), comm.stats()["bytes_sent"]

    ends = gradwire.testing.run_ranks(2, rank)
    assert ends[0][1] == ends[1][1], "replicas differ"
    ratio = 20 * 4 * 12_000 / ends[0][2]
    print(f"20 averages of 12,000 floats: {ratio:.1f}x fewer bytes, the sum is off by {ends[0][0]:.1%}")


if __name__ == "__main__":
    main()
