// Payloads as an attacker would write them, for every codec of the registry and every instruction set.
// Buffers have exactly the size that the codec is told, so that the address sanitizer (make sanitize) sees
// any step outside.
#include <doctest/doctest.h>

#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "codec/codec.hpp"
#include "codec/isa.hpp"
#include "codec/registry.hpp"

namespace {

using namespace gw;

// Values that give each codec its different kinds of blocks.
std::vector<float> values(size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<float> x(count);
  for (size_t i = 0; i < count; ++i) {
    const float n = std::normal_distribution<float>()(random);
    switch (i / 512 % 4) {
      case 0:
        x[i] = n;
        break;
      case 1:
        x[i] = static_cast<float>(static_cast<int>(n * 8)) / 8;
        break;
      case 2:
        x[i] = random() % 5 ? 0.0f : n * 1e-20f;
        break;
      default:
        x[i] = -1.5f;
    }
  }
  return x;
}

// Decodes bytes that lie in a heap block of exactly their size. True if they were refused, and then nothing
// was written.
bool refused(const Codec& codec, const std::byte* payload, size_t bytes, size_t count, bool add) {
  const std::unique_ptr<std::byte[]> exact(new std::byte[bytes]);
  if (bytes) std::memcpy(exact.get(), payload, bytes);
  const std::unique_ptr<float[]> out(new float[count]);
  for (size_t i = 0; i < count; ++i) out[i] = 77;
  try {
    const Piece piece{.count = count};
    const size_t used = add ? codec.decode_add(exact.get(), bytes, piece, out.get())
                            : codec.decode(exact.get(), bytes, piece, out.get());
    CHECK(used <= bytes);
    return false;
  } catch (const Error& e) {
    CHECK(e.kind() == ErrorKind::frame);
  }
  size_t written = 0;
  for (size_t i = 0; i < count; ++i) written += out[i] != 77;
  CHECK(written == 0);
  return true;
}

template <class Fn>
void for_each_codec(Fn fn) {
  const std::string usual(isas().front());
  for (const auto isa : isas()) {
    use_isa(isa);
    for (const auto& name : codec_names()) fn(*make_codec(name));
  }
  use_isa(usual);
}

}  // namespace

TEST_CASE("damaged payloads are refused or decode to something, inside their memory") {
  for_each_codec([](const Codec& codec) {
    std::mt19937 random(5);
    for (const size_t count : {size_t{1}, size_t{70}, size_t{2100}}) {
      const auto x = values(count, 1);
      std::vector<std::byte> payload(codec.encoded_bytes(count));
      payload.resize(codec.encode(x.data(), nullptr, {.count = count}, payload.data(), nullptr));
      for (int round = 0; round < 60; ++round) {
        auto damaged = payload;
        for (auto hits = 1 + random() % 6; hits > 0; --hits)
          damaged[random() % damaged.size()] = static_cast<std::byte>(random());
        if (random() % 3 == 0) damaged.resize(random() % damaged.size());
        refused(codec, damaged.data(), damaged.size(), count, round % 2);
      }
    }
  });
}

TEST_CASE("a payload cut short anywhere is refused before anything is written") {
  for_each_codec([](const Codec& codec) {
    for (const size_t count : {size_t{3}, size_t{600}}) {
      const auto x = values(count, 2);
      std::vector<std::byte> payload(codec.encoded_bytes(count));
      const size_t bytes = codec.encode(x.data(), nullptr, {.count = count}, payload.data(), nullptr);
      for (size_t cut = 0; cut < bytes; cut += 1 + bytes / 97)
        CHECK(refused(codec, payload.data(), cut, count, cut % 2));
    }
  });
}
