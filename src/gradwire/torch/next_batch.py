"""overlap="next-batch": every step gets the averages of the step before, while its own gradients travel.

So communication may take as long as a whole step and is still hidden. What is paid for it is one step of
delay (Dekel et al. 2012; "delayed SGD"): at the same learning rate training is less stable, most of all early
and with high momentum, and the first `optimizer.step()` finds no gradient.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

import torch


class _Sent:
    """One bucket of the last step: its memory, which ends as the averages, and when that is."""

    def __init__(self, flat: torch.Tensor, params: Sequence[torch.Tensor]) -> None:
        self.flat, self.params = flat, list(params)
        self.future: torch.futures.Future[torch.Tensor] | None = None

    def wait(self) -> None:
        if self.future is not None:
            self.future.wait()

    def same_layout(self, params: Sequence[torch.Tensor]) -> bool:
        return len(params) == len(self.params) and all(a is b for a, b in zip(params, self.params))


class NextBatch:
    """Holds the averages of one step until the next one asks for them."""

    def __init__(self) -> None:
        # id of a parameter -> itself, and where its last gradient is
        self._sent: dict[int, tuple[torch.Tensor, _Sent, int]] = {}
        self._free: dict[tuple[torch.dtype, int], list[torch.Tensor]] = {}
        self._without: list[torch.Tensor] = []
        self._waited_s = 0.0  # that communication of the last step took longer than what came between

    def exchange(self, flat: torch.Tensor, params: Sequence[torch.Tensor]) -> _Sent:
        """Moves the gradients in `flat` to memory of their own, to be sent, and puts last step's averages in
        their place (zeros where there was none). Waits for those."""
        kind = (flat.dtype, flat.numel())
        free = self._free.setdefault(kind, [])
        sent = _Sent(free.pop() if free else torch.empty_like(flat), params)
        sent.flat.copy_(flat)
        begin = time.monotonic()
        last = self._sent.get(id(params[0]))
        if last is not None and last[1].same_layout(params):
            last[1].wait()
            flat.copy_(last[1].flat)
            free.append(last[1].flat)
        else:  # the first step, or buckets were regrouped
            self._free.clear()
            for p, out in _split(flat, params):
                if not self._read(p, out):
                    self._without.append(p)
        self._waited_s += time.monotonic() - begin
        at = 0
        for p in params:
            self._sent[id(p)] = (p, sent, at)
            at += p.numel()
        return sent

    def _read(self, param: torch.Tensor, out: torch.Tensor) -> bool:
        """False, and zeros, if there is none."""
        if id(param) not in self._sent:
            out.zero_()
            return False
        _, sent, at = self._sent[id(param)]
        sent.wait()
        out.copy_(sent.flat[at : at + out.numel()])
        return True

    def take_waited(self) -> float:
        """Seconds since the last call."""
        waited, self._waited_s = self._waited_s, 0.0
        return waited

    def clear_missing(self) -> None:
        """Once backward is over: a parameter that had no gradient in the last step has none in this one, so
        that optimizers leave it alone."""
        for p in self._without:
            p.grad = None
        self._without.clear()

    def wait(self) -> None:
        for _, sent, _ in self._sent.values():
            sent.wait()

    def forget(self) -> None:
        """Drops what is held, after an error: it may be anything."""
        self.wait()
        self._sent.clear()
        self._free.clear()

    def flush(self) -> None:
        """Puts the averages that are held into `grad`, and holds nothing."""
        for p, _, _ in self._sent.values():
            grad = torch.empty_like(p)
            self._read(p, _memory_of(grad))
            p.grad = grad
        self._sent.clear()

    # -- checkpoints: the averages are equal on every rank, so their keys carry no rank ----------------------
    def state_dict(self, names: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        state = {"next_batch": torch.tensor(bool(self._sent))}
        for name, p in names.items():
            state[f"next_batch/{name}"] = out = torch.zeros(p.numel(), dtype=p.dtype)
            self._read(p, out)
        return state

    def load_state_dict(self, state: Mapping[str, torch.Tensor], names: Mapping[str, torch.Tensor]) -> None:
        self.forget()
        if not bool(state["next_batch"]):
            return
        for name, p in names.items():
            saved = state[f"next_batch/{name}"].to(p.device, p.dtype, copy=True).reshape(-1)
            self._sent[id(p)] = (p, _Sent(saved, [p]), 0)


def _split(flat: torch.Tensor, params: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    at = 0
    for p in params:
        yield p, flat[at : at + p.numel()]
        at += p.numel()


def _memory_of(grad: torch.Tensor) -> torch.Tensor:
    """Its elements as they lie in memory, which is the order of a bucket."""
    return grad.as_strided((grad.numel(),), (1,))
