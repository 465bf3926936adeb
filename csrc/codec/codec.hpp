// A codec turns fp32 values into bytes and back. It knows no rank, no socket, no dtype but fp32: the executor
// loads other dtypes into fp32 scratch first.
//
// Rules every codec obeys (the contract tests check them):
//  * the payload's size depends on the count alone, or (fixed_size() is false) is at most what the count allows;
//  * the same values give the same bytes on every instruction set, thread count and device;
//  * blocks never straddle a call: a caller that splits a message splits it at multiples of block(), and the payload
//    of the whole is the payloads of the parts, one after the other;
//  * random numbers are a function of seed, step, stream and element (Piece), never of how an array was split;
//  * NaN and Inf come back as NaN or Inf somewhere in their block, never as a finite number in silence;
//  * decode of hostile bytes throws Error(frame) or yields garbage values. It reads and writes inside its arguments only.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace gw {

// What a user chose. 0 / empty means the codec's default. A codec names those that it takes; others are refused.
struct CodecParams {
  int block = 0;         // elements that share a scale (quantisers) or a selection (top-k)
  double ratio = 0;      // top-k: kept share of each block, 0 < ratio <= 1
  std::string values;    // top-k: how kept values travel: "fp32", "bf16" or "int8"
  std::string levels;    // quantisers: where the decoded values lie: "signed-max" or "lloyd-max"
  std::string rounding;  // quantisers: "nearest" or "stochastic"
  std::string scale;     // rotated codecs: "least-squares" or "unbiased"
  int64_t seed = 0;      // of whatever is drawn at random, 0 to 65535: it travels in the header's params

  bool operator==(const CodecParams&) const = default;
};

// The elements of one call and where they stand: the key of every random number.
struct Piece {
  size_t count = 0;    // elements
  uint64_t first = 0;  // index of the first one in the whole array; a multiple of block()
  uint64_t step = 0;   // number of the operation in its communicator, or the step of a stand-alone frame
  uint32_t stream =
      0;  // who encodes, where several encode the same element (the rank). For rounding only: a decoder
          // does not know it
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
  virtual bool fixed_size() const = 0;
  // Bytes of a payload of `count` elements: exactly if fixed_size(), else at most.
  virtual size_t encoded_bytes(size_t count) const = 0;

  // payload = Q(x + owed); returns its bytes. owed may be null: nothing.
  // If loss is not null: loss[i] = x[i] + owed[i] - decoded[i] (overwritten; may be x or owed).
  // A block whose value is not finite reports loss 0, so that a NaN never enters a residual.
  virtual size_t encode(const float* x, const float* owed, const Piece& piece, std::byte* payload,
                        float* loss) const = 0;
  // Reads at most `bytes`, returns how many the piece took. Throws Error(frame).
  virtual size_t decode(const std::byte* payload, size_t bytes, const Piece& piece, float* out) const = 0;
  virtual size_t decode_add(const std::byte* payload, size_t bytes, const Piece& piece, float* acc) const = 0;
};

using CodecPtr = std::shared_ptr<const Codec>;

// Throws Error(argument) naming the known codecs, or the parameter that is wrong and what is allowed.
CodecPtr make_codec(const std::string& name, const CodecParams& params = {});
// From a frame header: throws Error(frame) if unknown or out of range.
CodecPtr codec_from_wire(uint8_t id, uint32_t wire_params);

}  // namespace gw
