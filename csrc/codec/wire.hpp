// The 64-byte header before every payload: stand-alone frames (gradwire.encode) and every message of a collective.
// WIRE_FORMAT.md is the normative text; the ids of dtype and op are in base/dtype.hpp.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

#include "base/dtype.hpp"

namespace gw {

inline constexpr size_t kHeaderBytes = 64;
inline constexpr uint32_t kFrameMagic = 0x31525747;  // "GWR1" read as a little-endian u32
inline constexpr uint8_t kFrameVersion = 1;
// Raw bytes of the header's dtype; the only codec id that integers may travel under.
inline constexpr uint8_t kRawCodec = 0;
// No frame holds more elements: keeps every size computation far from overflow.
inline constexpr uint64_t kMaxCount = uint64_t{1} << 48;

// FrameHeader::flags: instead of the payload comes the place where it lies, in memory that both ranks have mapped.
inline constexpr uint8_t kLent = 1;
// The payload lies on the sender's board, at a place that both ranks know (comm/board.hpp); here it means nothing.
inline constexpr uint8_t kPosted = 4;
// The values do not travel: they are exchanged through GPU memory, whose place is the payload.
inline constexpr uint8_t kInPeerMemory = 2;

// Memory order is wire order (little-endian), so writing and comparing are plain memory operations.
struct FrameHeader {
  uint32_t magic = kFrameMagic;
  uint8_t version = kFrameVersion;
  uint8_t codec = kRawCodec;
  uint8_t dtype = 0;       // DType of the array the values came from
  uint8_t collective = 0;  // Collective; 0: a stand-alone frame, whose fields from `op` on, but count,
                           // payload_bytes, total, seq and params, are 0
  uint8_t op = 0;          // ReduceOp
  uint8_t algorithm = 0;   // Algorithm id
  uint8_t lane = 0;
  uint8_t flags = 0;           // kLent, kPosted or kInPeerMemory, or 0
  uint32_t params = 0;         // Codec::wire_params()
  uint64_t count = 0;          // elements in this frame
  uint64_t payload_bytes = 0;  // bytes after the header
  uint64_t total = 0;          // elements of the whole operation; stand-alone: count
  uint64_t seq = 0;            // number of the operation in its communicator; stand-alone: the step
  uint32_t segment = 0;
  uint16_t chunk = 0;
  uint16_t round = 0;
  uint32_t epoch = 0;
  uint32_t config = 0;  // hash of the settings that must agree: segment size, depth, root or tag
};
static_assert(sizeof(FrameHeader) == kHeaderBytes && std::is_trivially_copyable_v<FrameHeader>);
static_assert(offsetof(FrameHeader, params) == 12 && offsetof(FrameHeader, count) == 16 &&
              offsetof(FrameHeader, seq) == 40 && offsetof(FrameHeader, segment) == 48 &&
              offsetof(FrameHeader, config) == 60);
static_assert(std::endian::native == std::endian::little, "a big-endian port must swap in write/read_header");

inline void write_header(const FrameHeader& header, std::byte* out) {
  std::memcpy(out, &header, kHeaderBytes);
}

// Splits the fields without looking at them: for diagnostics, and after header_equals.
inline FrameHeader read_header(const std::byte* frame) {
  FrameHeader h;
  std::memcpy(&h, frame, kHeaderBytes);
  return h;
}

// The executor's fast path: it knows every field from local geometry, so bytes from a peer are only compared.
inline bool header_equals(const std::byte* got, const std::byte* expected) {
  return std::memcmp(got, expected, kHeaderBytes) == 0;
}

// A stand-alone frame, header and payload, exactly `bytes` long. Throws Error(frame) that says what was expected and
// what was found. On return every field is in range and payload_bytes fits both the count and the buffer; values of
// the payload (codes, scales, top-k indices) are checked by decode, and so is the size where it depends on them.
FrameHeader parse_checked(const std::byte* frame, size_t bytes);

// "all_reduce #12 sum float32[1000] codec int4(block=32) algorithm ring": one side of a mismatch message. The
// caller translates the two ids this room does not know; an empty name leaves the number. Never throws on odd fields.
std::string describe(const FrameHeader& header, std::string_view collective, std::string_view algorithm);
// "count, codec": what a caller got wrong; the place in the schedule, both sides of it, only if nothing else differs.
std::string differences(const FrameHeader& a, const FrameHeader& b);

}  // namespace gw
