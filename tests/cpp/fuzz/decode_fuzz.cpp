// Hostile bytes where a frame is expected: decode may refuse them with a typed error or make values of them, and touches
// nothing but its arguments. Two ways in:
//   gw_fuzz [seconds] [seed]      a mutator of our own, the same frames for the same seed; any compiler
//   -DGW_LIBFUZZER=ON with clang  LLVMFuzzerTestOneInput under libFuzzer
// Buffers have the exact size on the heap, so that AddressSanitizer sees a step outside.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "codec/codec.hpp"
#include "codec/isa.hpp"
#include "codec/registry.hpp"
#include "codec/wire.hpp"

namespace {

using namespace gw;

// A frame of a codec without a fixed size may claim more elements than anybody wants to decode.
constexpr uint64_t kMostElements = 1 << 17;

struct Tally {
  uint64_t frames = 0, refused_header = 0, refused_payload = 0, decoded = 0;
};

// True if the property holds.
bool decode_frame(const uint8_t* data, size_t size, Tally& tally) {
  ++tally.frames;
  const std::unique_ptr<std::byte[]> frame(new std::byte[size]);
  if (size) std::memcpy(frame.get(), data, size);
  FrameHeader h;
  CodecPtr codec;
  try {
    h = parse_checked(frame.get(), size);
    codec = codec_from_wire(h.codec, h.params);
  } catch (const Error& e) {
    ++tally.refused_header;
    return e.kind() == ErrorKind::frame;
  }
  if (h.codec == kRawCodec || h.count > kMostElements) return true;
  const std::unique_ptr<std::byte[]> payload(new std::byte[h.payload_bytes]);
  if (h.payload_bytes) std::memcpy(payload.get(), frame.get() + kHeaderBytes, h.payload_bytes);
  const std::unique_ptr<float[]> out(new float[h.count]());
  Piece piece;
  piece.count = h.count;
  piece.step = h.seq;
  for (const bool add : {false, true}) {
    try {
      const size_t used = add ? codec->decode_add(payload.get(), h.payload_bytes, piece, out.get())
                              : codec->decode(payload.get(), h.payload_bytes, piece, out.get());
      if (used > h.payload_bytes) return false;
      ++tally.decoded;
    } catch (const Error& e) {
      ++tally.refused_payload;
      if (e.kind() != ErrorKind::frame) return false;
    }
  }
  return true;
}

#ifndef GW_LIBFUZZER

using Bytes = std::vector<uint8_t>;
Bytes last;  // what was being decoded when a sanitizer stopped the process

void keep_last() {
  if (std::FILE* f = std::fopen("fuzz-failure.bin", "wb")) {
    std::fwrite(last.data(), 1, last.size(), f);
    std::fclose(f);
  }
}

class Mutator {
 public:
  explicit Mutator(uint64_t seed) : random_(seed) {
    const auto add = [this](const std::string& name, const CodecParams& params) {
      try {
        codecs_.push_back(make_codec(name, params));
      } catch (const Error&) {  // not a parameter of this codec
      }
    };
    for (const std::string& name : listed_codec_names()) {
      CodecParams p;
      add(name, p);
      for (p.block = 32; p.block <= 256; p.block *= 2) add(name, p);
      p = {};
      for (const char* levels : {"signed-max", "lloyd-max"}) add(name, (p.levels = levels, p));
      p = {};
      for (const char* values : {"fp32", "bf16", "int8", "int4"}) add(name, (p.values = values, p));
      p = {};
      for (double ratio : {0.001, 0.3, 1.0}) add(name, (p.ratio = ratio, p));
      p = {};
      p.seed = 7;
      add(name, p);
      p.rounding = "stochastic";
      add(name, p);
    }
  }
  size_t codecs() const { return codecs_.size(); }

  Bytes next() {
    Bytes frame = valid();
    switch (below(8)) {
      case 0:
        return frame;
      case 1:  // nothing but noise behind a good header
        for (size_t i = kHeaderBytes; i < frame.size(); ++i) frame[i] = noise();
        return frame;
      case 2:
        frame.resize(below(frame.size() + 1));
        return frame;
      case 3:
        frame.resize(frame.size() + 1 + below(64), noise());
        return frame;
      case 4:  // a field of the header
        set(frame, below(kHeaderBytes), odd_number(), size_t{1} << below(4));
        return frame;
      case 5: {  // another count, with the size that goes with it
        set(frame, 16, below(5000), 8);
        std::memcpy(&frame[32], &frame[16], 8);
        set(frame, 24, frame.size() - kHeaderBytes, 8);
        return frame;
      }
      case 6:
        for (auto& byte : frame) byte = noise();
        return frame;
      default:
        for (uint64_t flips = 1 + below(8); flips && frame.size() > kHeaderBytes; --flips)
          frame[kHeaderBytes + below(frame.size() - kHeaderBytes)] ^= static_cast<uint8_t>(1u << below(8));
        return frame;
    }
  }

 private:
  uint64_t below(uint64_t n) { return n ? random_() % n : 0; }
  uint8_t noise() { return static_cast<uint8_t>(random_()); }
  uint64_t odd_number() {
    constexpr uint64_t kOdd[] = {0, 1, 31, 255, 4096, 1u << 16, ~0u, uint64_t{1} << 48, ~uint64_t{0}};
    return below(2) ? kOdd[below(std::size(kOdd))] : random_();
  }
  static void set(Bytes& frame, size_t at, uint64_t value, size_t bytes) {
    std::memcpy(&frame[at], &value, std::min(bytes, frame.size() - at));
  }

  Bytes valid() {
    const Codec& codec = *codecs_[below(codecs_.size())];
    const size_t block = codec.block(),
                 around[] = {0, 1, block - 1, block, block + 1, 3 * block + 7, below(9000)};
    const size_t count = around[below(std::size(around))];
    std::vector<float> x(count);
    std::normal_distribution<float> normal;
    for (float& v : x) v = normal(random_);
    if (count && below(8) == 0) {
      const uint32_t bits = static_cast<uint32_t>(random_());
      std::memcpy(&x[below(count)], &bits, 4);
    }
    Bytes frame(kHeaderBytes + codec.encoded_bytes(count));
    auto* to = reinterpret_cast<std::byte*>(frame.data());
    FrameHeader h;
    h.codec = codec.id();
    h.params = codec.wire_params();
    h.dtype = static_cast<uint8_t>(DType::f32);
    h.count = h.total = count;
    Piece piece;
    piece.count = count;
    h.payload_bytes = codec.encode(x.data(), nullptr, piece, to + kHeaderBytes, nullptr);
    frame.resize(kHeaderBytes + h.payload_bytes);
    write_header(h, reinterpret_cast<std::byte*>(frame.data()));
    return frame;
  }

  std::mt19937_64 random_;
  std::vector<CodecPtr> codecs_;
};

#endif

}  // namespace

#ifdef GW_LIBFUZZER
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  Tally tally;
  if (!decode_frame(data, size, tally)) __builtin_trap();
  return 0;
}
#else

#ifdef __SANITIZE_ADDRESS__
extern "C" void __sanitizer_set_death_callback(void (*callback)());
#endif

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 10;
  const uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_set_death_callback(keep_last);
#endif
  Mutator mutator(seed);
  Tally tally;
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  const auto isas = gw::isas();
  while (std::chrono::steady_clock::now() < end) {
    use_isa(isas[tally.frames % isas.size()]);
    last = mutator.next();
    if (!decode_frame(last.data(), last.size(), tally)) {
      keep_last();
      std::printf("seed %llu, frame %llu: not a frame error; see fuzz-failure.bin\n",
                  static_cast<unsigned long long>(seed), static_cast<unsigned long long>(tally.frames));
      return 1;
    }
  }
  std::printf("%zu codecs, %llu frames: %llu refused by their header, %llu payloads refused, %llu decoded\n",
              mutator.codecs(), static_cast<unsigned long long>(tally.frames),
              static_cast<unsigned long long>(tally.refused_header),
              static_cast<unsigned long long>(tally.refused_payload),
              static_cast<unsigned long long>(tally.decoded));
  return tally.decoded && tally.refused_header ? 0 : 1;
}
#endif
