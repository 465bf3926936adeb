"""The parity matrix: every way to train in parallel, with every codec and dtype, beside torch's own.

Rows: tests/torch/parity_*.py. Without a codec: torch's result, bit for bit where there is one order of adding
(two ranks), else within 1e-6. With one: within a bound derived from the codec's definition (parity.py); where
several ranks hold the same, they hold the same bits. One launch a world size.
"""

from __future__ import annotations

import pytest
import ranks

pytest.importorskip("torch")
EIGHT = "parity_eight parity_eight_sharded"


@pytest.mark.parametrize("cell", ranks.names("parity_two"))
def test_on_two_ranks(cell: str) -> None:
    ranks.assert_ok(cell, "parity_two", 2)


@pytest.mark.slow
@pytest.mark.parametrize("cell", ranks.names(EIGHT))
def test_on_eight_ranks(cell: str) -> None:
    ranks.assert_ok(cell, EIGHT, 8)
