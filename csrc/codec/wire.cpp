#include "codec/wire.hpp"

#include "base/error.hpp"
#include "codec/codec.hpp"

namespace gw {
namespace {

[[noreturn]] void refuse(const std::string& what) {
  throw Error(ErrorKind::frame, "not a valid gradwire frame: " + what);
}

std::string expected_got(const char* what, uint64_t expected, uint64_t got) {
  return std::string(what) + ": expected " + std::to_string(expected) + ", got " + std::to_string(got);
}

void check_payload_bytes(const FrameHeader& h, const Codec& codec) {
  // raw frames keep their dtype; codecs work on fp32 and remember a float dtype only
  const uint64_t expected =
      h.codec == kRawCodec ? h.count * size_of(static_cast<DType>(h.dtype)) : codec.encoded_bytes(h.count);
  if (codec.fixed_size() ? h.payload_bytes != expected : h.payload_bytes > expected)
    refuse(
        expected_got(codec.fixed_size() ? "payload_bytes for this codec and count" : "payload_bytes, at most",
                     expected, h.payload_bytes));
}

std::string codec_text(const FrameHeader& h) {
  if (h.codec == kRawCodec && h.params == 0) return "none";
  try {
    return codec_from_wire(h.codec, h.params)->description();
  } catch (const Error&) {
    return std::string("?")
        .append(std::to_string(h.codec))
        .append("(")
        .append(std::to_string(h.params))
        .append(")");
  }
}

}  // namespace

FrameHeader parse_checked(const std::byte* frame, size_t bytes) {
  if (bytes < kHeaderBytes)
    refuse("truncated: a header has 64 bytes, the buffer has " + std::to_string(bytes));
  const FrameHeader h = read_header(frame);
  // in this order: each check makes the next one meaningful
  if (h.magic != kFrameMagic) refuse(expected_got("magic", kFrameMagic, h.magic));
  if (h.version != kFrameVersion) refuse(expected_got("version", kFrameVersion, h.version));
  if (h.collective != 0)
    refuse("it is a message of a collective (id " + std::to_string(h.collective) +
           "), not a stand-alone frame");
  if (h.op | h.algorithm | h.lane | h.flags | h.segment | h.chunk | h.round | h.epoch | h.config)
    refuse("a field that is reserved in stand-alone frames is not zero");
  if (!valid(static_cast<DType>(h.dtype))) refuse(expected_got("dtype id, at most 7", 1, h.dtype));
  const CodecPtr codec =
      codec_from_wire(h.codec, h.params);  // throws Error(frame) for an unknown codec or bad parameters
  if (h.codec != kRawCodec && !is_float(static_cast<DType>(h.dtype)))
    refuse("codec id " + std::to_string(h.codec) + " holds floats, the header says " +
           std::string(name(static_cast<DType>(h.dtype))));
  if (h.count > kMaxCount) refuse("count " + std::to_string(h.count) + " is above 2^48");
  if (h.total != h.count) refuse(expected_got("total", h.count, h.total));
  check_payload_bytes(h, *codec);
  if (bytes - kHeaderBytes != h.payload_bytes)
    refuse(expected_got(bytes - kHeaderBytes < h.payload_bytes ? "truncated; bytes after the header"
                                                               : "trailing bytes; bytes after the header",
                        h.payload_bytes, bytes - kHeaderBytes));
  return h;
}

std::string describe(const FrameHeader& h, std::string_view collective, std::string_view algorithm) {
  if (h.magic != kFrameMagic) return "bytes that are no gradwire frame";
  if (h.version != kFrameVersion) return "a frame of version " + std::to_string(h.version);
  std::string text;
  const bool alone = h.collective == 0 && collective.empty();
  if (alone)
    text = "frame ";
  else
    text.append(collective.empty() ? "collective " + std::to_string(h.collective) : std::string(collective))
        .append(" #")
        .append(std::to_string(h.seq))
        .append(" ");
  if (h.op != 0) text.append(name(static_cast<ReduceOp>(h.op))).append(" ");
  text.append(name(static_cast<DType>(h.dtype))).append("[").append(std::to_string(h.total)).append("]");
  text.append(" codec ").append(codec_text(h));
  if (alone) return text;
  if (h.flags == kInPeerMemory) text.append(" by memory of GPUs (gpu_peers)");
  return text.append(" algorithm ")
      .append(algorithm.empty() ? std::to_string(h.algorithm) : std::string(algorithm));
}

std::string differences(const FrameHeader& a, const FrameHeader& b) {
  if (a.magic != b.magic || a.version != b.version) return "protocol";
  struct Field {
    const char* what;
    uint64_t a, b;
  };
  const auto list = [](std::initializer_list<Field> fields, bool values) {
    std::string text;
    for (const Field& f : fields) {
      if (f.a == f.b) continue;
      text.append(text.empty() ? "" : ", ").append(f.what);
      if (values) text.append(" ").append(std::to_string(f.a)).append(" and ").append(std::to_string(f.b));
    }
    return text;
  };
  const auto codec = [](const FrameHeader& h) { return uint64_t{h.codec} << 32 | h.params; };
  std::string text = list({{"collective", a.collective, b.collective},
                           {"number of the call", a.seq, b.seq},
                           {"op", a.op, b.op},
                           {"dtype", a.dtype, b.dtype},
                           {"count", a.total, b.total},
                           {"codec", codec(a), codec(b)},
                           {"where the arrays are", a.flags, b.flags},
                           {"algorithm", a.algorithm, b.algorithm},
                           {"epoch", a.epoch, b.epoch}},
                          false);
  if (!text.empty()) return text;
  if (a.config != b.config) return "root, tag, topology or a setting such as segment_bytes";
  return list({{"round", a.round, b.round},
               {"chunk", a.chunk, b.chunk},
               {"segment", a.segment, b.segment},
               {"lane", a.lane, b.lane},
               {"elements of a segment", a.count, b.count},
               {"bytes of a segment", a.payload_bytes, b.payload_bytes}},
              true);
}

}  // namespace gw
