// gw_codec_digest <folder of golden frames>: one line per codec and parameters, with a hash of all that its
// loops write: payload, loss, decoded values and sums, for many inputs and odd sizes. Fails if two
// instruction sets of this machine differ, or if a golden frame is not what this build encodes.
// tools/check_neon.sh compares the lines of two machines.
//
// Codecs are found in the registry, parameters in the headers of the golden frames: a new codec needs no line
// here.
#include <bit>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "codec/codec.hpp"
#include "codec/isa.hpp"
#include "codec/registry.hpp"
#include "codec/wire.hpp"

namespace {

using namespace gw;
using Bytes = std::vector<std::byte>;

// FNV-1a: it only has to see a difference.
struct Hash {
  uint64_t value = 0xcbf29ce484222325u;
  void add(const void* data, size_t bytes) {
    const auto* p = static_cast<const unsigned char*>(data);
    for (size_t i = 0; i < bytes; ++i) value = (value ^ p[i]) * 0x100000001b3u;
  }
};

// xorshift64*: the same numbers everywhere, which the distributions of <random> do not promise.
struct Random {
  uint64_t state = 0x9e3779b97f4a7c15u;
  uint32_t bits() {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return static_cast<uint32_t>((state * 0x2545f4914f6cdd1du) >> 32);
  }
  float uniform() { return static_cast<float>(bits() >> 8) * 0x1p-24f; }
  float normal() {  // near enough
    float sum = -6;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return sum;
  }
};

// What codecs treat differently: smooth values, all magnitudes, ties, zeros, rounded values, specials, any
// bits.
std::vector<float> input(int kind, size_t count) {
  Random random;
  std::vector<float> x(count);
  for (size_t i = 0; i < count; ++i) {
    const float n = random.normal();
    const uint32_t any = random.bits();
    switch (kind) {
      case 0:
        x[i] = n;
        break;
      case 1:
        x[i] = std::bit_cast<float>((any & 0x807fffffu) | ((1 + (any >> 9) % 253) << 23));
        break;
      case 2:
        x[i] = static_cast<float>(static_cast<int>(any % 65) - 32) * 0.125f;
        break;
      case 3:
        x[i] = any % 4 ? 0.0f : n * 1e-3f;
        break;
      case 4:
        x[i] = std::bit_cast<float>(std::bit_cast<uint32_t>(n) & 0xffff0000u);
        break;
      case 5:
        x[i] = any % 1500 ? n * 1e-39f : std::bit_cast<float>(0x7f800000u | ((any & 4u) << 20));
        break;
      default:
        x[i] = std::bit_cast<float>(any);
    }
  }
  return x;
}
constexpr int kKinds = 7;

void add_codec(Hash& hash, const Codec& codec, const std::vector<float>& x) {
  const Piece piece{.count = x.size(), .first = 7 * uint64_t{codec.block()}, .step = 3, .stream = 2};
  Bytes payload(codec.encoded_bytes(x.size()));
  std::vector<float> loss(x.size()), owed(x.size(), 0.125f), out(x.size()), acc(x.size(), 2.0f);
  const size_t plain = codec.encode(x.data(), nullptr, piece, payload.data(), nullptr);
  hash.add(payload.data(), plain);
  const size_t bytes = codec.encode(x.data(), owed.data(), piece, payload.data(), loss.data());
  hash.add(payload.data(), bytes);
  codec.decode(payload.data(), bytes, piece, out.data());
  codec.decode_add(payload.data(), bytes, piece, acc.data());
  for (float& v : acc)
    if (v != v) v = 0;  // the payload of a sum of NaNs is up to the hardware
  for (const auto* values : {&loss, &out, &acc}) hash.add(values->data(), values->size() * sizeof(float));
}

uint64_t digest(const Codec& codec) {
  Hash hash;
  const size_t b = codec.block();
  for (int kind = 0; kind < kKinds; ++kind)
    for (size_t count : {size_t{1}, b - b / 2 + 2, b + 1, 3 * b + 5, size_t{5003}})
      add_codec(hash, codec, input(kind, count));
  return hash.value;
}

Bytes contents(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  Bytes bytes(text.size());
  std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

// tests/test_wire_format.py: golden_input
std::vector<float> golden_input() {
  std::vector<float> x(4096 + 45);
  for (size_t i = 0; i < x.size(); ++i) {
    const auto n = static_cast<int64_t>(i);
    x[i] = static_cast<float>((n * 7919 % 2003 - 1001) * (1 + n % 97)) / 1024.0f;
  }
  for (size_t i = 64; i < 96; ++i) x[i] = 0;
  for (size_t i = 96; i < 128; ++i) x[i] = -2.5f;
  x[128] = 3.0e38f, x[129] = -3.4e38f, x[256] = 1e-40f, x[257] = -1e-38f;
  x[384] = std::bit_cast<float>(0x7fc00000u), x[512] = std::bit_cast<float>(0xff800000u);
  x[640] = 7, x[641] = -7;
  return x;
}

bool encodes_as(const Bytes& frame, const FrameHeader& header, const Codec& codec) {
  const std::vector<float> x = golden_input();
  Bytes made(codec.encoded_bytes(x.size()));
  made.resize(codec.encode(x.data(), nullptr, {.count = x.size(), .step = header.seq}, made.data(), nullptr));
  return header.count == x.size() && frame.size() == kHeaderBytes + made.size() &&
         std::memcmp(frame.data() + kHeaderBytes, made.data(), made.size()) == 0;
}

int run(const char* folder) {
  int wrong = 0;
  std::map<std::string, CodecPtr> codecs;  // sorted by what they print
  for (const auto& name : codec_names()) {
    const CodecPtr codec = make_codec(name);
    codecs[codec->description()] = codec;
  }
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const Bytes frame = contents(entry.path());
    const FrameHeader header = parse_checked(frame.data(), frame.size());
    const CodecPtr codec = codec_from_wire(header.codec, header.params);
    codecs[codec->description()] = codec;
    for (const auto isa : isas()) {
      use_isa(isa);
      if (encodes_as(frame, header, *codec)) continue;
      std::fprintf(stderr, "%s: %s encodes other bytes\n", entry.path().c_str(), std::string(isa).c_str());
      ++wrong;
    }
  }
  for (const auto& [description, codec] : codecs) {
    uint64_t first = 0;
    for (const auto isa : isas()) {
      use_isa(isa);
      const uint64_t hash = digest(*codec);
      if (isa == isas().front()) first = hash;
      if (hash == first) continue;
      std::fprintf(stderr, "%s: %s and %s differ\n", description.c_str(), std::string(isa).c_str(),
                   std::string(isas().front()).c_str());
      ++wrong;
    }
    std::printf("%-40s %016llx\n", description.c_str(), static_cast<unsigned long long>(first));
  }
  return wrong;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: gw_codec_digest <folder of golden frames>\n");
    return 2;
  }
  try {
    return run(argv[1]) ? 1 : 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
