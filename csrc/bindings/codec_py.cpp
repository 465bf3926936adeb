// Codecs, stand-alone frames and the compression kernels. Non-fp32 arrays pass through fp32 scratch piece by piece.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/error.hpp"
#include "bindings/view_py.hpp"
#include "codec/codec.hpp"
#include "codec/isa.hpp"
#include "codec/kernels.hpp"
#include "codec/parallel.hpp"
#include "codec/registry.hpp"
#include "codec/topk_exact.hpp"
#include "codec/user_codecs.hpp"
#include "codec/wire.hpp"

namespace py = pybind11;

namespace gw {
namespace {

// pybind11 holders are not const; Codec has const members only.
using CodecHolder = std::shared_ptr<Codec>;
CodecHolder holder(const CodecPtr& codec) { return std::const_pointer_cast<Codec>(codec); }

// Scratch for one piece: small enough for the second-level cache.
constexpr size_t kPiece = 16384;

// Whole blocks of the codec.
size_t piece_of(const Codec& codec) { return std::max(kPiece / codec.block(), size_t{1}) * codec.block(); }

// fn(offset, count) over pieces. Frames of a codec are concatenations of blocks, so pieces of whole blocks may be
// coded one by one.
template <class Fn>
void for_pieces(size_t count, size_t piece, Fn fn) {
  for (size_t at = 0; at < count; at += piece) fn(at, std::min(piece, count - at));
}
std::byte* bytes_at(const View& v, size_t element) {
  return static_cast<std::byte*>(v.data) + element * size_of(v.dtype);
}

void check_float(const View& v, const char* what) {
  if (!is_float(v.dtype))
    fail_argument(std::string(what) + " must hold floats, got " + std::string(name(v.dtype)) +
                  "; integers can only be framed as they are, with codec identity");
}
View bytes_of(py::handle array, const char* what, bool writable) {
  const View v = view_of(array, writable);
  if (v.dtype != DType::u8)
    fail_argument(std::string(what) + " must be uint8 bytes, got " + std::string(name(v.dtype)));
  return v;
}

// The step of a seeded codec, how many threads a large fp32 array may use, and where it lies in a larger whole.
struct Call {
  uint64_t step = 0;
  int threads = 1;
  uint64_t first = 0;
  uint32_t stream = 0;
  Piece piece(size_t at, size_t n) const { return {n, first + at, step, stream}; }
};

// Only codecs of fixed size are cut, and of them only those with small blocks: the others hold indices that may be refused,
// and then the output must be as it was. Registered codecs hold the GIL anyway.
int threads_for(const Codec& codec, int threads) {
  return codec.fixed_size() && codec.block() <= 1024 && codec.id() != kUserCodec ? threads : 1;
}

// Null: no residual.
float* loss_array(py::handle residual, const View& x) {
  if (residual.is_none()) return nullptr;
  const View r = view_of(residual, true);
  if (r.dtype != DType::f32) fail_argument("residual must be float32, got " + std::string(name(r.dtype)));
  check_count("residual", x.count, r.count);
  return static_cast<float*>(r.data);
}

// payload = codec(x + residual); residual, if any, becomes the loss. Returns the payload's bytes.
size_t encode_view(const Codec& codec, const View& x, Call call, float* residual, std::byte* payload) {
  const auto* values = static_cast<const float*>(x.data);
  if (x.dtype == DType::f32 && !codec.fixed_size())
    return codec.encode(values, residual, call.piece(0, x.count), payload, residual);
  if (x.dtype == DType::f32) {
    in_parallel(x.count, codec.block(), threads_for(codec, call.threads), [&](size_t at, size_t n) {
      float* r = residual ? residual + at : nullptr;
      codec.encode(values + at, r, call.piece(at, n), payload + codec.encoded_bytes(at), r);
    });
    return codec.encoded_bytes(x.count);
  }
  const size_t piece = piece_of(codec);
  std::vector<float> scratch(std::min(piece, x.count));
  size_t bytes = 0;
  for_pieces(x.count, piece, [&](size_t at, size_t n) {
    float* r = residual ? residual + at : nullptr;
    kernels().load(x.dtype, bytes_at(x, at), r, scratch.data(), n);
    bytes += codec.encode(scratch.data(), nullptr, call.piece(at, n), payload + bytes, r);
  });
  return bytes;
}

// A payload on its way into arrays; refuses one that is not used up.
class Reader {
 public:
  Reader(const Codec& codec, const std::byte* payload, size_t bytes, Call call)
      : codec_(codec), payload_(payload), bytes_(bytes), call_(call) {}
  size_t piece() const { return piece_of(codec_); }
  // All of it.
  void decode_all(size_t count, float* out, bool add) {
    if (!codec_.fixed_size()) {
      add ? decode_add(0, count, out) : decode(0, count, out);
      return finish();
    }
    used_ = codec_.encoded_bytes(count);
    finish();
    in_parallel(count, codec_.block(), threads_for(codec_, call_.threads), [&](size_t at, size_t n) {
      const std::byte* from = payload_ + codec_.encoded_bytes(at);
      const Piece piece = call_.piece(at, n);
      const size_t bytes = codec_.encoded_bytes(n);
      add ? codec_.decode_add(from, bytes, piece, out + at) : codec_.decode(from, bytes, piece, out + at);
    });
  }
  void decode(size_t first, size_t count, float* out) {
    used_ += codec_.decode(payload_ + used_, bytes_ - used_, call_.piece(first, count), out);
  }
  void decode_add(size_t first, size_t count, float* acc) {
    used_ += codec_.decode_add(payload_ + used_, bytes_ - used_, call_.piece(first, count), acc);
  }
  void finish() const {
    if (used_ != bytes_)
      throw Error(ErrorKind::frame, "malformed payload: it has " + std::to_string(bytes_) + " bytes, " +
                                        std::to_string(used_) + " were needed");
  }

 private:
  const Codec& codec_;
  const std::byte* payload_;
  const size_t bytes_;
  const Call call_;
  size_t used_ = 0;
};

void decode_view(Reader payload, const View& out) {
  if (out.dtype == DType::f32) return payload.decode_all(out.count, static_cast<float*>(out.data), false);
  std::vector<float> scratch(std::min(payload.piece(), out.count));
  for_pieces(out.count, payload.piece(), [&](size_t at, size_t n) {
    payload.decode(at, n, scratch.data());
    kernels().store(out.dtype, scratch.data(), 1.0f, bytes_at(out, at), n);
  });
  payload.finish();
}

void decode_add_view(Reader payload, const View& acc) {
  if (acc.dtype == DType::f32) return payload.decode_all(acc.count, static_cast<float*>(acc.data), true);
  // the addition happens in the wider of the two types and rounds once
  std::vector<float> scratch(std::min(payload.piece(), acc.count));
  for_pieces(acc.count, payload.piece(), [&](size_t at, size_t n) {
    payload.decode(at, n, scratch.data());
    if (acc.dtype == DType::f64) {
      auto* to = static_cast<double*>(acc.data) + at;
      for (size_t i = 0; i < n; ++i) to[i] += static_cast<double>(scratch[i]);
    } else {
      kernels().load_add(acc.dtype, bytes_at(acc, at), nullptr, scratch.data(), n);
      kernels().store(acc.dtype, scratch.data(), 1.0f, bytes_at(acc, at), n);
    }
  });
  payload.finish();
}

// ---- frames --------------------------------------------------------------------------------------------------------

// identity frames hold the array's own bytes, so that integers and float64 survive
bool raw(const Codec& codec) { return codec.id() == kRawCodec; }

size_t payload_bytes(const Codec& codec, const View& x) {
  return raw(codec) ? x.bytes() : codec.encoded_bytes(x.count);
}

// What was written, if that is less than the whole of `out`.
py::object prefix(py::object out, size_t room, size_t bytes) {
  return bytes == room ? out : out[py::slice(0, static_cast<py::ssize_t>(bytes), 1)];
}

py::object encode(py::handle array, const Codec& codec, py::handle residual, py::object out, Call call) {
  const View x = view_of(array, false);
  if (!raw(codec)) check_float(x, "x");
  float* loss = loss_array(residual, x);
  if (loss && raw(codec) && x.dtype != DType::f32)
    fail_argument("codec identity takes a residual with float32 x only, got " + std::string(name(x.dtype)));
  size_t payload = payload_bytes(codec, x);
  if (out.is_none()) out = py::array_t<uint8_t>(static_cast<py::ssize_t>(kHeaderBytes + payload));
  const View frame = bytes_of(out, "out", true);
  check_count("out", kHeaderBytes + payload, frame.count);

  FrameHeader h;
  h.codec = codec.id();
  h.params = codec.wire_params();
  h.dtype = static_cast<uint8_t>(x.dtype);
  h.count = h.total = x.count;
  h.seq = call.step;
  auto* to = static_cast<std::byte*>(frame.data);
  {
    py::gil_scoped_release released;
    if (raw(codec) && !loss) {
      if (payload) std::memcpy(to + kHeaderBytes, x.data, payload);
    } else {
      payload = encode_view(codec, x, call, loss, to + kHeaderBytes);
    }
    h.payload_bytes = payload;
    write_header(h, to);
  }
  return prefix(std::move(out), frame.count, kHeaderBytes + payload);
}

struct Frame {
  FrameHeader header;
  const std::byte* payload;
  DType dtype;
};
Frame parse(py::handle array) {
  const View v = bytes_of(array, "frame", false);
  const auto* bytes = static_cast<const std::byte*>(v.data);
  const FrameHeader h = parse_checked(bytes, v.count);
  return {h, bytes + kHeaderBytes, static_cast<DType>(h.dtype)};
}

Reader reader(const Frame& f, const Codec& codec, int threads) {
  return {codec, f.payload, f.header.payload_bytes, {f.header.seq, threads}};
}

// Raw frames of another float type than the array's: widened to fp32, then rounded.
void check_convertible(const Frame& f, const View& v) {
  if (f.dtype != v.dtype && !(is_float(f.dtype) && is_float(v.dtype)))
    fail_argument("the frame holds " + std::string(name(f.dtype)) + ", the array " +
                  std::string(name(v.dtype)) + "; pass an array of the frame's dtype");
}

void decode(py::handle array, py::handle out_array, int threads) {
  const Frame f = parse(array);
  const View out = view_of(out_array, true);
  check_count("out", f.header.count, out.count);
  check_convertible(f, out);
  py::gil_scoped_release released;
  if (f.header.codec != kRawCodec) {
    decode_view(reader(f, *codec_from_wire(f.header.codec, f.header.params), threads), out);
  } else if (f.dtype == out.dtype) {
    if (out.count) std::memcpy(out.data, f.payload, out.bytes());
  } else {
    std::vector<float> scratch(std::min(kPiece, out.count));
    for_pieces(out.count, kPiece, [&](size_t at, size_t n) {
      kernels().load(f.dtype, f.payload + at * size_of(f.dtype), nullptr, scratch.data(), n);
      kernels().store(out.dtype, scratch.data(), 1.0f, bytes_at(out, at), n);
    });
  }
}

void decode_add(py::handle array, py::handle acc_array, int threads) {
  const Frame f = parse(array);
  const View acc = view_of(acc_array, true);
  check_count("acc", f.header.count, acc.count);
  check_convertible(f, acc);
  py::gil_scoped_release released;
  if (f.header.codec != kRawCodec) {
    decode_add_view(reader(f, *codec_from_wire(f.header.codec, f.header.params), threads), acc);
  } else if (f.dtype == acc.dtype) {
    const void* sources[] = {acc.data, f.payload};
    kernels().fold(acc.dtype, ReduceOp::sum, sources, 2, 1.0, acc.data, nullptr, acc.count);
  } else {
    fail_argument("the frame holds raw " + std::string(name(f.dtype)) + ", acc " +
                  std::string(name(acc.dtype)) + "; pass acc of the frame's dtype");
  }
}

// ---- bare kernels ----------------------------------------------------------------------------------------------------

size_t quantize(py::handle array, const Codec& codec, py::handle payload, Call call, py::handle residual) {
  const View x = view_of(array, false);
  check_float(x, "x");
  float* loss = loss_array(residual, x);
  const View to = bytes_of(payload, "payload", true);
  check_count("payload", codec.encoded_bytes(x.count), to.count);
  py::gil_scoped_release released;
  return encode_view(codec, x, call, loss, static_cast<std::byte*>(to.data));
}

void dequantize(py::handle payload, const Codec& codec, py::handle array, Call call, bool add) {
  const View from = bytes_of(payload, "payload", false);
  const View out = view_of(array, true);
  check_float(out, "out");
  if (codec.fixed_size()) check_count("payload", codec.encoded_bytes(out.count), from.count);
  py::gil_scoped_release released;
  const Reader bytes(codec, static_cast<const std::byte*>(from.data), from.count, call);
  add ? decode_add_view(bytes, out) : decode_view(bytes, out);
}

void topk(py::handle array, size_t k, py::handle values, py::handle indices) {
  const View x = view_of(array, false);
  check_float(x, "x");
  if (k > x.count)
    fail_argument("k must be at most " + std::to_string(x.count) + ", the number of elements; got " +
                  std::to_string(k));
  const View v = view_of(values, true), i = view_of(indices, true);
  if (v.dtype != DType::f32 || i.dtype != DType::i64)
    fail_argument("values must be float32 and indices int64");
  check_count("values", k, v.count);
  check_count("indices", k, i.count);
  py::gil_scoped_release released;
  std::vector<float> widened;
  const float* in = static_cast<const float*>(x.data);
  if (x.dtype != DType::f32) {
    widened.resize(x.count);
    kernels().load(x.dtype, x.data, nullptr, widened.data(), x.count);
    in = widened.data();
  }
  topk_exact(in, x.count, k, static_cast<float*>(v.data), static_cast<int64_t*>(i.data));
}

}  // namespace

void register_codec(py::module_& m) {
  py::class_<Codec, CodecHolder>(m, "Codec")
      .def(py::init([](const std::string& name, int block, double ratio, const std::string& values,
                       const std::string& levels, const std::string& rounding, const std::string& scale,
                       int64_t seed) {
             return holder(make_codec(name, {block, ratio, values, levels, rounding, scale, seed}));
           }),
           py::arg("name"), py::arg("block") = 0, py::arg("ratio") = 0.0, py::arg("values") = "",
           py::arg("levels") = "", py::arg("rounding") = "", py::arg("scale") = "", py::arg("seed") = 0)
      .def_property_readonly("name", &Codec::name)
      .def_property_readonly("id", &Codec::id)
      .def_property_readonly("lossy", &Codec::lossy)
      .def_property_readonly("block", &Codec::block)
      .def_property_readonly("fixed_size", &Codec::fixed_size)
      .def("encoded_bytes", &Codec::encoded_bytes, py::arg("count"))
      .def("__repr__", &Codec::description);
  m.def("codec_names", &listed_codec_names);
  m.attr("HEADER_BYTES") = kHeaderBytes;
  m.def(
      "encode",
      [](py::handle x, const Codec& codec, py::handle residual, py::object out, uint64_t step, int threads) {
        return encode(x, codec, residual, std::move(out), {step, threads});
      },
      py::arg("x"), py::arg("codec"), py::arg("residual") = py::none(), py::arg("out") = py::none(),
      py::arg("step") = 0, py::arg("threads") = 1);
  m.def(
      "frame_bytes",
      [](py::handle x, const Codec& codec) { return kHeaderBytes + payload_bytes(codec, view_of(x, false)); },
      py::arg("x"), py::arg("codec"));
  m.def(
      "frame_info",
      [](py::handle frame) {
        const Frame f = parse(frame);
        py::dict info;
        info["codec"] = holder(codec_from_wire(f.header.codec, f.header.params));
        info["dtype"] = std::string(name(f.dtype));
        info["count"] = f.header.count;
        info["step"] = f.header.seq;
        return info;
      },
      py::arg("frame"));
  m.def("decode", &decode, py::arg("frame"), py::arg("out"), py::arg("threads") = 1);
  m.def("decode_add", &decode_add, py::arg("frame"), py::arg("acc"), py::arg("threads") = 1);
  m.def(
      "quantize",
      [](py::handle x, const Codec& codec, py::handle payload, uint64_t step, int threads,
         py::handle residual, uint64_t first,
         uint32_t stream) { return quantize(x, codec, payload, {step, threads, first, stream}, residual); },
      py::arg("x"), py::arg("codec"), py::arg("payload"), py::arg("step") = 0, py::arg("threads") = 1,
      py::arg("residual") = py::none(), py::arg("first") = 0, py::arg("stream") = 0);
  m.def(
      "dequantize",
      [](py::handle payload, const Codec& codec, py::handle out, uint64_t step, int threads, uint64_t first,
         bool add) { dequantize(payload, codec, out, {step, threads, first}, add); },
      py::arg("payload"), py::arg("codec"), py::arg("out"), py::arg("step") = 0, py::arg("threads") = 1,
      py::arg("first") = 0, py::arg("add") = false);
  m.def("topk", &topk, py::arg("x"), py::arg("k"), py::arg("values"), py::arg("indices"));

  m.def("isa", [] { return std::string(isa_table().kernels.isa); });
  m.def("isas", [] {
    const auto names = isas();
    return std::vector<std::string>(names.begin(), names.end());
  });
  m.def("use_isa", [](const std::string& isa) { use_isa(isa); }, py::arg("isa"));
}

}  // namespace gw
