"""The native module, as the Python front sees it. Arrays cross as `x`: a NumPy array, a CPU torch tensor, or anything with
DLPack or the buffer protocol; contiguous, native byte order. Everything that can take long releases the GIL."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

# The typed errors of gradwire.errors, handed over once at import; native code raises exactly these.
# Called with (message, rank=culprit, host=..., op=..., seq=..., step=...) as attributes set on the instance.
def set_error_types(types: dict[str, type[BaseException]]) -> None: ...
def set_log_sink(sink: Callable[[int, str], None] | None) -> None: ...
def isa() -> str: ...  # instruction set of the kernels in use: "avx512", "avx2", "neon", "portable"
def isas() -> list[str]: ...  # those this build and CPU can run
def use_isa(name: str) -> None: ...  # tests only, for the whole process
def build_info() -> dict[str, str]: ...  # compiler, version

# -- codec -------------------------------------------------------------------------------------------------------
class Codec:
    @property
    def name(self) -> str: ...
    @property
    def id(self) -> int: ...
    @property
    def lossy(self) -> bool: ...
    @property
    def block(self) -> int: ...
    @property
    def fixed_size(self) -> bool: ...  # payloads of one count all have one size
    def __init__(
        self,
        name: str,
        block: int = 0,
        ratio: float = 0.0,
        values: str = "",
        levels: str = "",
        rounding: str = "",
        scale: str = "",
        seed: int = 0,
    ) -> None: ...
    def encoded_bytes(self, count: int) -> int: ...  # payload only, without the 64-byte header; at most, if not fixed_size
    def __repr__(self) -> str: ...

def codec_names() -> list[str]: ...  # those of the build
def user_codec_names() -> list[str]: ...  # those that were registered
HEADER_BYTES: int
def frame_bytes(x: Any, codec: Codec) -> int: ...  # of encode(x, codec), or at most; identity keeps the array's own dtype
# A self-describing frame: 64-byte header + payload. residual (fp32, x.count) is added to x first and overwritten with the loss.
# out: frame_bytes(x, codec) bytes; what was written is returned, a prefix of it if the codec has no fixed size.
# threads: at most so many, for fp32 arrays of 1 MiB and more; the bytes do not depend on it.
def encode(
    x: Any, codec: Codec, residual: Any | None = None, out: Any | None = None, step: int = 0, threads: int = 1
) -> Bytes: ...
# {"codec": Codec, "dtype": "float32", "count": n, "step": n}; FrameError if malformed
def frame_info(frame: Any) -> dict[str, Any]: ...
def decode(frame: Any, out: Any, threads: int = 1) -> None: ...  # out: float array of frame_info()["count"] elements
def decode_add(frame: Any, acc: Any, threads: int = 1) -> None: ...
# Bare kernels (no header), used by ops: payload is uint8 of codec.encoded_bytes(count). quantize returns the bytes written.
# residual: as in encode. first, stream: where x begins in a larger whole, and who encodes it, for codecs that draw at
# random: each rank of a collective draws its own numbers. add: out += what was decoded.
def quantize(
    x: Any,
    codec: Codec,
    payload: Any,
    step: int = 0,
    threads: int = 1,
    residual: Any | None = None,
    first: int = 0,
    stream: int = 0,
) -> int: ...
def dequantize(
    payload: Any, codec: Codec, out: Any, step: int = 0, threads: int = 1, first: int = 0, add: bool = False
) -> None: ...
# A Python codec (user_codec.py). sizes[n]: payload bytes of n elements, n = 0 .. block. encode(x, first, step, stream) ->
# uint8 array; decode(payload, count, first, step) -> float32 array.
def add_user_codec(
    name: str, sizes: Sequence[int], encode: Callable[[Any, int, int, int], Any], decode: Callable[[Any, int, int, int], Any]
) -> None: ...
# What changed between two arrays of words (1, 2, 4 or 8 bytes; all arrays here are uint8), losslessly: csrc/codec/changes.hpp.
# threads: at most so many, for 2^18 words and more; the bytes do not depend on it. FrameError if malformed.
def pack_changes(now: Any, before: Any, word_bytes: int, threads: int = 1) -> Bytes: ...
def unpack_changes(packed: Any, before: Any, word_bytes: int, out: Any, threads: int = 1) -> None: ...
# Exact global top-k by magnitude, ties to the lower index, results in index order. values: float32[k], indices: int64[k].
def topk(x: Any, k: int, values: Any, indices: Any) -> None: ...
# |x| >= threshold, ascending: returns how many there are; values (float32) and indices (int64) take the first ones.
def select_at_least(x: Any, threshold: float, values: Any, indices: Any) -> int: ...
# Increasing int32 numbers below length, in the fewest bits of a size known beforehand (codec/elias_fano.hpp).
def packed_index_bytes(n: int, length: int) -> int: ...
def pack_indices(indices: Any, length: int, out: Any) -> None: ...
def unpack_indices(packed: Any, length: int, indices: Any) -> None: ...  # FrameError if malformed
# PowerSGD's arithmetic, the same bits on every machine. m: float32[rows, cols], p: float32[rank, rows],
# q: float32[rank, cols].
def low_rank_project(m: Any, q: Any, p: Any) -> None: ...  # p = m q
def low_rank_back_project(m: Any, p: Any, q: Any) -> None: ...  # q = m^T p
def low_rank_restore(p: Any, q: Any, m: Any | None, out: Any) -> None: ...  # out = p q^T; m -= out
def orthonormalize(p: Any) -> int: ...  # in place; returns how many columns are independent
# Copies arrays to or from places in a buffer (uint8): offsets in elements of their common dtype.
def pack(arrays: Sequence[Any], offsets: Sequence[int], buffer: Any) -> None: ...
def unpack(buffer: Any, offsets: Sequence[int], arrays: Sequence[Any]) -> None: ...
# codes: uint8, 1 to 8 bits each; packed: uint8[ceil(count * bits / 8)].
def pack_bits(codes: Any, bits: int, out: Any) -> None: ...
def unpack_bits(packed: Any, bits: int, out: Any) -> None: ...
def hadamard(x: Any, block: int, out: Any) -> None: ...  # float32; out may be x
def randk(x: Any, seed: int, step: int, values: Any, indices: Any) -> None: ...  # float32[k], int64[k], ascending
def array_info(x: Any) -> tuple[int, int, str]: ...  # (address, count, dtype name); ArgumentError if not usable

# -- GPU ---------------------------------------------------------------------------------------------------------
class DeviceArray:  # flat GPU memory, not initialised; has __cuda_array_interface__
    shape: tuple[int, ...]
    dtype: str
    size: int
    device: int
    def __init__(self, shape: Sequence[int], dtype: str, device: int = 0) -> None: ...
    def __getitem__(self, elements: slice) -> DeviceArray: ...  # flat, of the same memory; no step
    def copy_from(self, host: Any) -> None: ...  # as many bytes; waits
    def copy_to(self, host: Any) -> None: ...

class Graph:  # of a call that was recorded
    def launch(self, stream: int = 0) -> None: ...

class Peers:  # ranks that are all on one GPU of this process
    size: int
    device: int
    seq: int  # of the next all_reduce
    def __init__(self, device: int, ranks: int) -> None: ...
    def all_reduce(
        self, arrays: Sequence[Any], op: str, codec: Codec | None, algorithm: str, residuals: Sequence[Any],
        timeout: float, streams: bool = False, silent: Sequence[int] = (),
    ) -> None: ...  # fmt: skip
    def record(
        self, arrays: Sequence[Any], op: str, codec: Codec | None, algorithm: str, residuals: Sequence[Any],
        timeout: float,
    ) -> Graph: ...  # fmt: skip
    def synchronize(self, stream: int = 0) -> None: ...

class HostPeers:  # one rank of a host whose ranks are processes: csrc/comm/host_peers.hpp
    rank: int
    size: int
    def __init__(self, device: int, rank: int, size: int) -> None: ...
    def ready(
        self, x: Any, op: str, codec: Codec | None, algorithm: str, residuals: Sequence[Any], timeout: float
    ) -> bool: ...
    def grow(self) -> bytes: ...
    def connect(self, all: bytes) -> None: ...
    def all_reduce(
        self, x: Any, op: str, codec: Codec | None, algorithm: str, residuals: Sequence[Any], timeout: float
    ) -> None: ...
    def synchronize(self, stream: int = 0) -> None: ...

# _native.gpu: the same functions for arrays in GPU memory, all of a call on one GPU. They put their work on x's stream and do
# not wait. GpuError if there is no GPU; ArgumentError for a codec without kernels or another dtype than float32, bfloat16,
# float16. Residuals: float32, bfloat16, or the bytes of int8(block=64).
class _Gpu:
    DeviceArray: type[DeviceArray]
    Graph: type[Graph]
    HostPeers: type[HostPeers]
    MOST_PEERS: int  # ranks that read one another's memory
    def one_shot_below(self, ranks: int) -> int: ...  # bytes of an array, by default
    Peers: type[Peers]
    def status(self) -> dict[str, Any]: ...  # usable, built, simulated: bool; gpus: list[str]; text: of all, or what is missing
    def quantize(
        self,
        x: Any,
        codec: Codec,
        payload: Any,
        step: int = 0,
        residual: Any | None = None,
        first: int = 0,
        stream: int = 0,
    ) -> int: ...
    def dequantize(
        self, payload: Any, codec: Codec, out: Any, step: int = 0, first: int = 0, add: bool = False
    ) -> None: ...
    # On the target's stream; done when it returns if one of the two is in host memory.
    def copy(self, target: Any, source: Any) -> None: ...
    def clear(self, x: Any) -> None: ...
    def topk_bytes(self, count: int, k: int) -> int: ...  # of topk's scratch, uint8
    def topk(self, x: Any, k: int, values: Any, indices: Any, scratch: Any) -> None: ...
    # How many there are; scratch as topk's of values.size. It waits for the GPU.
    def select_at_least(
        self, x: Any, threshold: float, values: Any, indices: Any, scratch: Any
    ) -> int: ...
    def randk(self, x: Any, seed: int, step: int, values: Any, indices: Any) -> None: ...
    # x[indices] = values, or with add += them. Each index once, inside x.
    def scatter(self, values: Any, indices: Any, x: Any, add: bool = False) -> None: ...
    # What collectives do beside codecs. load: values (float32) = x + residual, or with add += it.
    def load(self, x: Any, values: Any, residual: Any | None = None, add: bool = False) -> None: ...
    # x = values * scale, rounded; rounded_off (float32) = values - x.
    def store(self, values: Any, x: Any, scale: float = 1.0, rounded_off: Any | None = None) -> None: ...

gpu: _Gpu

# -- schedule ----------------------------------------------------------------------------------------------------
class Topology:  # empty lists: all on one host; 0, 1, 2, ...; none
    @property
    def host(self) -> list[int]: ...  # [size] number of each rank's host
    @property
    def order(self) -> list[int]: ...  # [size] the ranks around a ring
    @property
    def slow(self) -> list[bool]: ...  # [size] ranks that reach all others slowly
    def __init__(self, host: Sequence[int] = (), order: Sequence[int] = (), slow: Sequence[bool] = ()) -> None: ...
    def check(self, size: int) -> None: ...  # ArgumentError unless it describes that many ranks

class Step:
    kind: str  # "send", "recv", "recv_reduce"
    chunk: int
    round: int
    peers: list[int]
    complete: bool
    raw: bool  # without the codec
    def __init__(
        self, kind: str, chunk: int, round: int, peers: Sequence[int], complete: bool = False, raw: bool = False
    ) -> None: ...

class Schedule:
    algorithm: str
    collective: str
    rank: int
    size: int
    root: int
    chunks: int
    lanes: list[list[Step]]
    lossy_encodes: int
    nested_sums: int
    def __init__(
        self,
        algorithm: str,
        collective: str,
        rank: int,
        size: int,
        root: int,
        chunks: int,
        lanes: Sequence[Sequence[Step]],
        lossy_encodes: int = 0,
        nested_sums: int = 0,
    ) -> None: ...  # `lanes` gives copies: edit them and assign them back

class Candidate:
    @property
    def algorithm(self) -> str: ...
    @property
    def seconds(self) -> float: ...
    @property
    def rounds(self) -> int: ...
    @property
    def lossy_encodes(self) -> int: ...
    @property
    def nested_sums(self) -> int: ...
    @property
    def valid(self) -> bool: ...
    @property
    def reason(self) -> str: ...

def algorithms() -> list[dict[str, Any]]: ...  # name, id, summary
def supports(algorithm: str, collective: str, size: int) -> bool: ...
def make_schedule(
    algorithm: str, collective: str, rank: int, size: int, root: int = -1, topology: Topology = ...
) -> Schedule: ...
def verify(ranks: Sequence[Schedule], segments: int = 1, depth: int = 1, capacity: int = 1) -> str: ...
def sum_order(ranks: Sequence[Schedule], chunk: int) -> str: ...
def select(
    collective: str,
    size: int,
    raw_bytes: int,
    wire_ratio: float = 1.0,
    lossy: bool = False,
    gamma: float = 0.0,
    segment_bytes: int = 131072,
    alpha: float = 1e-6,
    beta: float = 1e-10,
    rounding: bool = False,
) -> tuple[str, list[Candidate], str]: ...  # winner, candidates, explanation table
def estimate(algorithm: str, collective: str, size: int, raw_bytes: int, **question: Any) -> float: ...  # seconds

# -- transport ---------------------------------------------------------------------------------------------------
class Config:
    timeout_s: float
    transport: str
    sockets: int
    congestion: str
    heartbeat_s: float
    channel_bytes: int
    segment_bytes: int
    spin_us: float
    ifname: str
    topology: str
    deterministic: str
    gpu_peers: bool
    @staticmethod
    def from_env() -> Config: ...
    def check(self) -> None: ...

class Transport: ...  # opaque; moved into a Communicator

class Endpoint:
    def __init__(self, rank: int, size: int, epoch: int, secret: bytes, address: str, config: Config) -> None: ...
    def blob(self) -> bytes: ...
    def connect(self, blobs: Sequence[bytes], timeout: float) -> Transport: ...

# The numeric address that packets to host:port leave from; host may be a name. RendezvousError if there is none.
def local_address_toward(host: str, port: int) -> str: ...
def reachable_addresses() -> list[str]: ...  # of this host, best first; no loopback, no link-local
def address_of_interface(name: str) -> str: ...  # ArgumentError that lists the interfaces

class InprocHub:
    def __init__(self, size: int, channel_bytes: int = 524288) -> None: ...
    @property
    def size(self) -> int: ...
    def connect(self, rank: int) -> Transport: ...
    def delay(self, src: int, dst: int, seconds: float) -> None: ...
    def drop(self, src: int, dst: int) -> None: ...
    def close(self, rank: int) -> None: ...

# -- comm --------------------------------------------------------------------------------------------------------
class SharedBlock:  # a buffer of bytes, in memory that ranks of this host can map
    def __init__(self, bytes: int) -> None: ...  # MemoryError if there are not so many

def is_shared(address: int, bytes: int) -> bool: ...  # all of it in such memory, and still lent

class Work:
    @property
    def device(self) -> int: ...  # of the arrays; -1: the CPU
    def done(self) -> bool: ...  # on the GPU too
    def order(self, array: Any) -> None: ...  # once waited for: the array's current stream waits for the GPU's part
    def wait(self, timeout: float = -1.0) -> None: ...  # raises the operation's error; Timeout if not done by then (it goes on)
    def seconds(self) -> tuple[float, float, float]: ...  # submitted, started, finished (time.monotonic clock)

class Communicator:
    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    def __init__(self, transport: Transport, epoch: int, config: Config) -> None: ...
    # timeout < 0: the communicator's default. algorithm "": auto. sync=True: runs to the end and returns None.
    # The caller keeps every array alive until the Work is done.
    # f(x, op, codec, below): in place, all defaults. False, and nothing done, unless codec is None, or "auto" and x has
    # less than `below` bytes.
    def quick_all_reduce(self) -> Callable[[Any, str, Any, int], bool]: ...
    def all_reduce(
        self, x: Any, op: str, codec: Codec | None, algorithm: str, residual: Any | None, sync: bool, timeout: float
    ) -> Work | None: ...
    def all_reduce_as(  # buffer: uint8, holding count elements of dtype
        self, buffer: Any, count: int, dtype: str, op: str, codec: Codec | None, algorithm: str, sync: bool, timeout: float
    ) -> Work | None: ...
    def reduce_scatter(
        self, x: Any, out: Any, op: str, codec: Codec | None, algorithm: str, residual: Any | None, sync: bool, timeout: float
    ) -> Work | None: ...
    def all_gather(self, x: Any, out: Any, codec: Codec | None, algorithm: str, sync: bool, timeout: float) -> Work | None: ...
    def broadcast(self, x: Any, root: int, codec: Codec | None, algorithm: str, sync: bool, timeout: float) -> Work | None: ...
    def all_to_all(self, x: Any, out: Any, codec: Codec | None, sync: bool, timeout: float) -> Work | None: ...
    def send(self, x: Any, peer: int, tag: int, sync: bool, timeout: float) -> Work | None: ...
    def recv(self, x: Any, peer: int, tag: int, sync: bool, timeout: float) -> Work | None: ...
    def barrier(self, sync: bool, timeout: float) -> Work | None: ...
    def explain(self, count: int, dtype: str, codec: Codec | None) -> str: ...
    def choose(self, count: int, dtype: str, codec: Codec | None) -> str: ...  # the algorithm "auto" takes for all_reduce
    @property
    def topology(self) -> Topology: ...
    # Both: the same on every rank, between the same two collectives.
    def set_topology(self, topology: Topology) -> None: ...
    def set_costs(
        self,
        links: Sequence[tuple[float, float, float, float]],  # [from * size + to] alpha, beta, message, touch: see select.hpp
        machine: Sequence[int],
        cores: int,
        reduce: float,  # seconds a byte of one core
        codecs: dict[str, tuple[float, float]],  # repr of the codec: encode, decode, seconds a raw byte
        # repr of the codec or "", algorithm, raw bytes of an all_reduce, by what its estimate is to be multiplied there
        trials: Sequence[tuple[str, str, float, float]] = (),
    ) -> None: ...
    # all_reduces of GPU arrays go through memory that ranks map; bytes for which "auto" takes one_shot
    def use_gpu_peers(self, one_shot_below: int) -> None: ...
    def places(self) -> list[tuple[int, int]]: ...  # host number, machine number of every rank; the same on all
    # seconds: latency one way, between small messages, a byte; the peer calls with leads=False and gets zeros
    def measure_link(self, peer: int, leads: bool) -> tuple[float, float, float]: ...
    def candidates(self, count: int, dtype: str, codec: Codec | None) -> list[Candidate]: ...  # of choose()
    def abort(self, reason: str) -> None: ...
    def close(self) -> None: ...
    def peers(self) -> list[tuple[str, str]]: ...  # per rank: (transport kind, host); own rank: ("self", host)
    def counters(self) -> dict[str, int]: ...  # bytes_sent, bytes_received, socket_bytes_sent, ..., ops
    def trace_start(self, events: int = 100000) -> None: ...
    # (name, start_s, end_s, op seq, peer, chunk, segment, bytes); times on time.monotonic's clock
    def trace_stop(self) -> list[tuple[str, float, float, int, int, int, int, int]]: ...
