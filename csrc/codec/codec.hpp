// A codec turns fp32 values into bytes and back. It knows no rank, no socket, no dtype but fp32: the executor
// loads other dtypes into fp32 scratch first.
//
// Rules every codec obeys (the contract tests check them):
//  * the payload's size depends on the count alone, so both sides know it before a byte moves;
//  * the same values give the same bytes on every instruction set, thread count and device;
//  * blocks never straddle a call: a caller that splits a message splits it at multiples of block();
//  * NaN and Inf come back as NaN or Inf somewhere in their block, never as a finite number in silence;
//  * decode of hostile bytes throws Error(frame) or yields garbage values, and writes only inside its output.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace gw {

// What a user chose. 0 / empty means the codec's default.
struct CodecParams {
  int block = 0;       // elements that share a scale (quantisers) or a selection (top-k)
  double ratio = 0;    // top-k: kept share of each block, 0 < ratio <= 1
  std::string values;  // top-k: how kept values travel: "fp32", "bf16" or "int8"
};

class Codec {
 public:
  virtual ~Codec() = default;

  virtual uint8_t id() const = 0;               // wire id, never reused
  virtual uint32_t wire_params() const = 0;     // parameters packed as WIRE_FORMAT.md says
  virtual const std::string& name() const = 0;  // "int4"
  virtual std::string description() const = 0;  // "int4(block=32)"
  virtual bool lossy() const = 0;
  virtual size_t block() const = 0;  // elements
  virtual size_t encoded_bytes(size_t count) const = 0;

  // payload = Q(x). If loss is not null: loss[i] = x[i] - decoded[i] (overwritten; may alias x).
  // A block whose value is not finite reports loss 0, so that a NaN never enters a residual.
  virtual void encode(const float* x, size_t count, std::byte* payload, float* loss) const = 0;
  virtual void decode(const std::byte* payload, size_t count, float* out) const = 0;
  virtual void decode_add(const std::byte* payload, size_t count, float* acc) const = 0;
};

using CodecPtr = std::shared_ptr<const Codec>;

// Throws Error(argument) naming the known codecs, or the parameter that is wrong and what is allowed.
CodecPtr make_codec(const std::string& name, const CodecParams& params = {});
// From a frame header: throws Error(frame) if unknown or out of range.
CodecPtr codec_from_wire(uint8_t id, uint32_t wire_params);

}  // namespace gw
