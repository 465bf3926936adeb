// Hostile packed changes: refused with a typed error or turned into values, and nothing outside is touched (sanitizers see
// it: all buffers have their exact size).
#include <doctest/doctest.h>

#include <cstring>
#include <memory>
#include <random>

#include "base/error.hpp"
#include "codec/changes.hpp"

using namespace gw;

TEST_CASE("hostile changes are refused or give values") {
  std::mt19937_64 random(1);
  int refused = 0, read = 0;
  for (const size_t word : {1u, 2u, 4u, 8u}) {
    const size_t count = 300, bytes = count * word;
    std::vector<uint8_t> before(bytes), now(bytes);
    for (size_t i = 0; i < bytes; ++i) {
      before[i] = static_cast<uint8_t>(random());
      now[i] = static_cast<uint8_t>(before[i] + (i % word == 0 ? random() % 3 : 0));
    }
    const auto good = pack_changes(now.data(), before.data(), count, word, 1);
    for (int round = 0; round < 2000; ++round) {
      auto bad = good;
      for (int flips = 0; flips < 1 + round % 3; ++flips)
        bad[random() % (round % 2 ? bad.size() : 8)] ^= static_cast<uint8_t>(1u << random() % 8);
      if (round % 5 == 0) bad.resize(random() % (bad.size() + 1));
      const std::unique_ptr<uint8_t[]> exact(new uint8_t[bad.size()]), out(new uint8_t[bytes]);
      if (!bad.empty()) std::memcpy(exact.get(), bad.data(), bad.size());
      try {
        unpack_changes(exact.get(), bad.size(), before.data(), count, word, out.get(), 1);
        ++read;
      } catch (const Error& e) {
        CHECK(e.kind() == ErrorKind::frame);
        ++refused;
      }
    }
  }
  CHECK(refused > 0);
  CHECK(read > 0);
}
