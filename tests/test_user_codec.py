"""A Python class acts as a codec anywhere a native one can, and its failures are typed and have a culprit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import gradwire
from gradwire import ArgumentError, CodecError, FrameError, MismatchError, register_codec


class Sign:
    """One bit and a mean magnitude for every 8 elements."""

    name = "test_sign"
    block = 8

    def encoded_bytes(self, count: int) -> int:
        return 5 * ((count + 7) // 8)

    def encode(self, x: Any) -> bytes:
        padded = np.concatenate([x, np.zeros(-x.size % 8, np.float32)]).reshape(-1, 8)
        out = np.empty((len(padded), 5), np.uint8)
        out[:, :4] = np.abs(padded).mean(axis=1, dtype=np.float32).reshape(-1, 1).view(np.uint8)
        out[:, 4] = np.packbits(padded < 0, axis=1, bitorder="little").reshape(-1)
        return out.tobytes()

    def decode(self, payload: Any, count: int) -> Any:
        rows = payload.reshape(-1, 5)
        scale = np.ascontiguousarray(rows[:, :4]).view(np.float32)
        signs = 1 - 2 * np.unpackbits(rows[:, 4:], axis=1, bitorder="little").astype(np.float32)
        return (scale * signs).reshape(-1)[:count]


class Twice(Sign):
    name = "test_twice"

    def encoded_bytes(self, count: int) -> int:
        return 2 * super().encoded_bytes(count)

    def encode(self, x: Any) -> bytes:
        return 2 * super().encode(x)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    register_codec(Sign)
    yield


def values(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def once(x: Any) -> Any:
    return Sign().decode(np.frombuffer(Sign().encode(x), np.uint8), x.size)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 4095, 40001])
def test_a_frame_holds_what_the_object_encoded(count: int) -> None:
    x = values(count)
    frame = gradwire.encode(x, "test_sign")
    assert frame[64:].tobytes() == Sign().encode(x)
    np.testing.assert_array_equal(gradwire.decode(frame), once(x))
    acc = np.ones(count, np.float32)
    np.testing.assert_array_equal(gradwire.decode_add(frame, acc), 1 + once(x))


def test_it_is_listed_and_made_by_name() -> None:
    assert gradwire.codecs()[-1] == "test_sign" or "test_sign" in gradwire.codecs()
    codec = gradwire.codec("test_sign")
    assert (repr(codec), codec.name, codec.lossy, codec.block) == ("test_sign", "test_sign", True, 8)
    assert codec.encoded_bytes(17) == 15
    with pytest.raises(ArgumentError, match="takes no parameters"):
        gradwire.codec("test_sign", block=64)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_dtypes_pass_through_float32(dtype: str) -> None:
    x = values(20001).astype(dtype)
    frame = gradwire.encode(x, "test_sign")
    np.testing.assert_array_equal(gradwire.decode(frame), once(x.astype(np.float32)).astype(dtype))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 7, 5000, 100003])
def test_replicas_agree_and_loss_is_conserved_in_a_collective(size: int, count: int) -> None:
    def rank(comm: Any) -> Any:
        x, residual = values(count, comm.rank), np.zeros(count, np.float32)
        comm.all_reduce(x, codec="test_sign", residual=residual)
        return x, residual

    ends = gradwire.testing.run_ranks(size, rank)
    exact = np.sum([values(count, r).astype(np.float64) for r in range(size)], axis=0)
    lost = np.sum([r.astype(np.float64) for _, r in ends], axis=0)
    for x, _ in ends:
        assert x.tobytes() == ends[0][0].tobytes()
    assert np.abs(exact - ends[0][0] - lost).max() <= 16 * size * size * 2.0**-24 * np.abs(exact).max() + 1e-5


@pytest.mark.parametrize("verb", ["reduce_scatter", "all_gather", "broadcast", "all_to_all"])
def test_every_collective_takes_it(verb: str) -> None:
    def rank(comm: Any) -> Any:
        x = values(3 * 800, 0)
        if verb == "all_gather":
            return comm.all_gather(x, codec="test_sign")
        return getattr(comm, verb)(x, codec="test_sign")

    for result in gradwire.testing.run_ranks(3, rank):
        assert np.isfinite(result).all() and result.any()


def test_asynchronous_operations_finish_while_the_caller_computes_in_python() -> None:
    def rank(comm: Any) -> Any:
        arrays = [values(5000, i) for i in range(8)]
        works = [comm.all_reduce(a, codec="test_sign", async_op=True) for a in arrays]
        busy = sum(i * i for i in range(50_000))
        return busy, [w.wait(timeout=30).tobytes() for w in works]

    ends = gradwire.testing.run_ranks(2, rank)
    assert ends[0] == ends[1]


def test_random_numbers_may_depend_on_the_place() -> None:
    class Dither(Sign):
        name = "test_dither"
        seen: list[Any] = []  # noqa: RUF012

        def encode(self, x: Any, place: Any = None) -> bytes:  # type: ignore[override]
            self.seen.append(place)
            return super().encode(x)

    register_codec(Dither)
    gradwire.encode(values(8), "test_dither", step=5)
    assert (Dither.seen[-1].first, Dither.seen[-1].step) == (0, 5)


class Broken(Sign):
    name = "test_broken"

    def encode(self, x: Any) -> Any:
        raise RuntimeError("no more ideas")


class Short(Sign):
    name = "test_short"

    def encode(self, x: Any) -> Any:
        return super().encode(x)[:-1]


class Undecodable(Sign):
    name = "test_undecodable"

    def decode(self, payload: Any, count: int) -> Any:
        raise ValueError("codes out of range")


@pytest.mark.parametrize(
    ("codec", "match"),
    [(Broken, "RuntimeError: no more ideas"), (Short, r"must return 5 bytes for 8 elements, got uint8\[4\]")],
)
def test_what_encode_does_wrong_is_a_codec_error(codec: Any, match: str) -> None:
    register_codec(codec)
    with pytest.raises(CodecError, match=match):
        gradwire.encode(values(8), codec.name)


def test_what_decode_raises_is_a_codec_error() -> None:
    register_codec(Undecodable)
    frame = gradwire.encode(values(8), "test_undecodable")
    with pytest.raises(CodecError, match="ValueError: codes out of range"):
        gradwire.decode(frame)


def test_an_exception_on_one_rank_ends_the_operation_everywhere_and_names_the_rank() -> None:
    failing: Any = None

    class FailsOnOne(Sign):
        name = "test_fails_on_one"

        def encode(self, x: Any) -> Any:
            if threading.current_thread() is failing:
                raise RuntimeError("rank 1 is tired")
            return super().encode(x)

    register_codec(FailsOnOne)

    def rank(comm: Any) -> Any:
        nonlocal failing
        if comm.rank == 1:
            failing = threading.current_thread()
        try:
            comm.all_reduce(values(5000, comm.rank), codec="test_fails_on_one", timeout=20)
        except CodecError as error:
            return error.rank, error.op, str(error)
        return None

    for end in gradwire.testing.run_ranks(3, rank):
        assert end is not None and end[:2] == (1, "all_reduce") and "rank 1 is tired" in end[2]


def test_an_asynchronous_operation_carries_the_error() -> None:
    register_codec(Broken)

    def rank(comm: Any) -> Any:
        work = comm.all_reduce(values(5000, comm.rank), codec="test_broken", async_op=True, timeout=20)
        try:
            work.wait(timeout=30)
        except CodecError as error:
            return str(error)
        return ""

    def alone(comm: Any) -> str:
        try:
            return str(rank(comm))
        except CodecError as error:  # another rank was quicker: the communicator is broken already
            return str(error)

    for text in gradwire.testing.run_ranks(2, alone):
        assert "no more ideas" in text


def test_ranks_with_different_codecs_get_a_mismatch() -> None:
    register_codec(Twice)

    def rank(comm: Any) -> str:
        try:
            comm.all_reduce(values(100), codec="test_twice" if comm.rank else "test_sign", timeout=20)
        except MismatchError as error:
            return str(error)
        return ""

    for text in gradwire.testing.run_ranks(2, rank):
        assert "test_sign" in text and "test_twice" in text


def test_a_frame_of_a_codec_that_is_not_registered_here_is_refused() -> None:
    frame = gradwire.encode(values(8), "test_sign").copy()
    frame[12] ^= 1
    with pytest.raises(FrameError, match=r"unknown codec id 255.*register_codec"):
        gradwire.decode(frame)


def test_registering_again_replaces_for_new_calls() -> None:
    class Zero(Sign):
        def decode(self, payload: Any, count: int) -> Any:
            return np.zeros(count)

    before = gradwire.codec("test_sign")
    register_codec(Zero())
    assert not gradwire.decode(gradwire.encode(values(8), "test_sign")).any()
    assert before.name == "test_sign"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"name": "int8"}, "codec of gradwire's own"),
        ({"name": "two words"}, "must be a word"),
        ({"block": 0}, "block must be from 1 to 4096, got 0"),
        ({"block": 5000}, "block must be from 1 to 4096, got 5000"),
        ({"encoded_bytes": lambda self, count: 4 + count}, "nothing for no elements"),
        ({"encoded_bytes": lambda self, count: count * count}, "once a block"),
        ({"encoded_bytes": lambda self, count: -1}, "number of bytes, got -1"),
        ({"decode": None}, "no method decode"),
    ],
)
def test_what_cannot_work_is_refused_at_once(changes: Any, match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        register_codec(type("Wrong", (Sign,), changes))
