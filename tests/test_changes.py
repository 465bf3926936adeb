"""Packed changes (csrc/codec/changes.hpp): every bit comes back, in as few bits as stated."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gradwire import _native
from gradwire.errors import ArgumentError, FrameError

Bytes = npt.NDArray[np.uint8]
WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
STRETCH = 1 << 17


def pair(kind: str, count: int, word: int) -> tuple[Bytes, Bytes]:
    rng = np.random.default_rng(count)
    before = rng.integers(0, 256, count * word, dtype=np.uint8)
    now = {
        "nothing": before,
        "everything": rng.integers(0, 256, count * word, dtype=np.uint8),
        "a little": (before.view(WORDS[word]) + rng.integers(0, 9, count).astype(WORDS[word])).view(np.uint8),
        "signs": before ^ np.uint8(0x80),
    }[kind]
    return now.copy(), before


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("kind", ["nothing", "everything", "a little", "signs"])
def test_every_bit_comes_back_whatever_the_threads(kind: str, word: int) -> None:
    for count in (0, 1, 2, 65, 1001, STRETCH, 2 * STRETCH + 1):
        now, before = pair(kind, count, word)
        packed = _native.pack_changes(now, before, word)
        np.testing.assert_array_equal(packed, _native.pack_changes(now, before, word, threads=3))
        for threads in (1, 3):
            out = np.full_like(now, 77)
            _native.unpack_changes(packed, before, word, out, threads=threads)
            np.testing.assert_array_equal(out, now)


def bits_a_word(now: Any, before: Any, word: int) -> float:
    packed = _native.pack_changes(now.view(np.uint8), before.view(np.uint8), word)
    return 8 * packed.size * word / now.nbytes


def test_changes_cost_their_size_and_no_more() -> None:
    rng = np.random.default_rng(0)
    before = rng.standard_normal(1 << 18).astype(np.float32)
    # Changes uniform in +-2^-10, for large and small values alike, are uniform in +-2^(13 - e) steps of a
    # float with exponent e, if they leave it in its octave: log2(2^(14 - e)) bits.
    moved = before + np.float32(2**-10) * rng.uniform(-1, 1, before.size).astype(np.float32)
    limit = np.mean(14 - np.floor(np.log2(np.abs(before))))
    assert limit < bits_a_word(moved, before, 4) < limit + 0.25
    # one step up or down, or none: log2(3) bits, and what guesses that go on learning are off
    steps = rng.integers(-1, 2, before.size).astype(np.int32)
    assert bits_a_word((before.view(np.int32) + steps).view(np.float32), before, 4) < np.log2(3) * 1.04
    assert bits_a_word(before, before, 4) < 0.06  # mostly what it takes to learn it, for each exponent
    assert bits_a_word(rng.permutation(before), before, 4) <= 32.01


class Letters:
    """changes.hpp read by the letter: one stretch."""

    def __init__(self, packed: bytes, word: int) -> None:
        coded, raw = np.frombuffer(packed[:8], "<u4").tolist()
        self.word, self.width = word, 8 * word
        self.coded, self.raw, self.given = list(packed[8 : 8 + coded]), packed[8 + coded :], 0
        assert len(self.raw) == raw
        self.code, self.range = 0, 2**32 - 1
        for _ in range(4):
            self.code = self.code << 8 | self.coded.pop(0)
        self.guesses: dict[Any, list[int]] = {}

    def bit(self, *context: int | str) -> int:
        fast, slow = self.guesses.setdefault(context, [0x8000, 0x8000])
        bound = (self.range >> 12) * ((fast + slow) >> 5)
        one = int(self.code >= bound)
        if one:
            self.code, self.range = self.code - bound, self.range - bound
            fast, slow = fast - (fast >> 4), slow - (slow >> 7)
        else:
            self.range = bound
            fast, slow = fast + ((0xFFFF - fast) >> 4), slow + ((0xFFFF - slow) >> 7)
        self.guesses[context] = [fast, slow]
        while self.range < 1 << 24:
            self.range, self.code = self.range << 8, self.code << 8 | self.coded.pop(0)
        return one

    def difference(self, before: int) -> int:
        exponent = before >> max(self.width - 9, 0) & (0x7F if self.word == 1 else 0xFF)
        node = 1
        for _ in range(self.width.bit_length()):
            node = node << 1 | self.bit("length", exponent, node)
        length = node - (1 << self.width.bit_length())
        if not length:
            return 0
        negative = self.bit("sign", exponent, length, before >> (self.width - 1))
        size, left = 1, length - 1
        while left and length - left < 3:
            left -= 1
            size = size << 1 | self.bit("shape", exponent, length, size)
        while left:  # bits as they are, 32 at most at a time, the upper ones first
            some = min(left, 32)
            left -= some
            whole = int.from_bytes(self.raw, "little") >> self.given
            size, self.given = size << some | whole & (1 << some) - 1, self.given + some
        return -size if negative else size


@pytest.mark.parametrize("word", WORDS)
def test_packed_changes_read_by_the_letter(word: int) -> None:
    # few exponents, both signs, changes of every length
    kind, places = WORDS[word], np.arange(2000)
    _, before = pair("nothing", places.size, word)
    before.view(kind)[:] = before.view(kind) & ~kind(0x7F << max(8 * word - 8, 0))
    now = (before.view(kind) ^ kind(1) << (places % (8 * word)).astype(kind)).view(np.uint8)
    letters = Letters(_native.pack_changes(now, before, word).tobytes(), word)
    mask, sign = (1 << 8 * word) - 1, 1 << (8 * word - 1)
    got = []
    for b in before.view(WORDS[word]).tolist():
        ordered = (b ^ mask if b & sign else b | sign) + letters.difference(b) & mask
        got.append(ordered ^ sign if ordered & sign else ordered ^ mask)
    assert got == now.view(WORDS[word]).tolist()
    assert not letters.coded and -(-letters.given // 8) == len(letters.raw)


def test_malformed_changes_are_refused() -> None:
    now, before = pair("a little", 1000, 4)
    packed = _native.pack_changes(now, before, 4)
    longer = packed.copy()
    longer[0] += 1
    for bad in (packed[:-1], packed[:7], packed[:0], np.append(packed, packed[:1]), longer):
        with pytest.raises(FrameError, match="malformed changes"):
            _native.unpack_changes(bad.copy(), before, 4, now)
    with pytest.raises(ArgumentError, match="no whole words"):
        _native.pack_changes(now[:-1], before[:-1], 4)
    with pytest.raises(ArgumentError, match="equally many"):
        _native.pack_changes(now, before[:-4], 4)
    with pytest.raises(ArgumentError, match="1, 2, 4 or 8"):
        _native.pack_changes(now[:999], before[:999], 3)
