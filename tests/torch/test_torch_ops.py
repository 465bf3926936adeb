"""torch.ops.gradwire.*: opcheck clean, no graph break, dynamic sizes, and the bytes of gradwire.ops."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

import gradwire  # noqa: E402
import gradwire.torch  # noqa: E402
from gradwire import _native  # noqa: E402
from gradwire.torch.ops import payload_bytes  # noqa: E402

OPS = torch.ops.gradwire
FIXED = [n for n in _native.codec_names() if gradwire.codec(n).fixed_size and gradwire.codec(n).id != 255]


def values(*shape: int) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def cases() -> dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    x = values(5, 77)
    payload = OPS.quantize(x, "int4")
    return {
        "quantize": (OPS.quantize.default, (x, "int8"), {}),
        "quantize_out": (OPS.quantize_out.default, (x, "int4", torch.empty_like(payload)), {}),
        "dequantize": (OPS.dequantize.default, (payload, "int4", [5, 77], torch.bfloat16), {}),
        "dequantize_out": (OPS.dequantize_out.default, (payload, "int4", torch.empty(5, 77)), {}),
        "error_feedback": (OPS.error_feedback.default, (x, torch.zeros(385), "int4"), {}),
        "topk": (OPS.topk.default, (x, 7), {}),
        "randk": (OPS.randk.default, (x, 7, 1, 2), {}),
        "hadamard": (OPS.hadamard.default, (values(4, 128),), {}),
        "pack": (OPS.pack.default, (torch.arange(21, dtype=torch.uint8), 5), {}),
        "unpack": (OPS.unpack.default, (torch.arange(14, dtype=torch.uint8), 5, 21), {}),
    }


@pytest.mark.parametrize("name", list(cases()))
def test_opcheck_finds_nothing(name: str) -> None:
    op, arguments, keywords = cases()[name]
    torch.library.opcheck(op, arguments, keywords)


@pytest.mark.parametrize("codec", FIXED)
def test_the_bytes_are_those_of_gradwire_ops(codec: str) -> None:
    x = values(3, 1001)
    q = gradwire.ops.quantize(x.numpy(), codec=codec)
    payload = OPS.quantize(x, codec)
    assert payload.numpy().tobytes() == q.payload.tobytes()
    back = OPS.dequantize(payload, codec, [3, 1001], torch.float32)
    assert back.numpy().tobytes() == gradwire.ops.dequantize(q).tobytes()


@pytest.mark.parametrize("codec", FIXED)
def test_sizes_under_tracing_are_the_codecs_own(codec: str) -> None:
    made = gradwire.codec(codec)
    for count in [0, 1, 2, 3, 15, 16, 17, 31, 32, 33, 127, 128, 129, 4095, 4096, 4097, 9001]:
        assert payload_bytes(codec, count) == made.encoded_bytes(count)
        form = gradwire.torch.ops._tail(codec)
        if form is not None:
            block, whole, bits, scale, most = form
            rest = count % block
            size = count // block * whole + (rest > 0) * scale + min((rest * bits + 7) // 8, most)
            assert size == made.encoded_bytes(count), count


def test_one_graph_with_dynamic_sizes_and_a_residual() -> None:
    def step(x: Any, residual: Any) -> Any:
        payload = OPS.error_feedback(x * 2, residual, "int4")
        top, _ = OPS.topk(x, 5)
        return OPS.dequantize(payload, "int4", list(x.shape), torch.float32), top.sum() + payload.numel()

    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend=backend)
    for shape in ((3, 50), (4, 77), (9, 128)):
        x, r1, r2 = values(*shape), torch.zeros(shape), torch.zeros(shape)
        got, want = compiled(x, r1), step(x, r2)
        assert torch.equal(got[0], want[0]) and torch.equal(r1, r2) and bool(got[1] == want[1])
    assert len(graphs) == 1, "another size made another graph"


def test_writing_into_an_array_survives_functionalisation() -> None:
    def step(x: Any, payload: Any, out: Any) -> Any:
        OPS.quantize_out(x + 1, "int8", payload)
        OPS.dequantize_out(payload, "int8", out)
        return out * 2

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    x = values(6, 100)
    size = gradwire.codec("int8").encoded_bytes(600)
    results = []
    for run in (compiled, step):
        payload, out = torch.zeros(size, dtype=torch.uint8), torch.zeros(6, 100)
        results.append((run(x, payload, out), payload, out))
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_errors_stay_typed() -> None:
    with pytest.raises(gradwire.ArgumentError, match="unknown codec"):
        OPS.quantize(values(8), "int99")
    with pytest.raises(gradwire.ArgumentError, match="expected"):
        OPS.quantize_out(values(8), "int8", torch.empty(3, dtype=torch.uint8))
