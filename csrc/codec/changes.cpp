#include "codec/changes.hpp"

#include <bit>
#include <cstring>
#include <memory>
#include <type_traits>

#include "base/error.hpp"
#include "codec/parallel.hpp"
#include "codec/range_coder.hpp"

namespace gw {
namespace {

constexpr size_t kStretch = size_t{1} << 17, kHead = 8;

[[noreturn]] void fail_changes(const char* what) {
  throw Error(ErrorKind::frame, std::string("malformed changes: ") + what);
}

template <class Word>
struct Words {
  static constexpr int kBits = 8 * sizeof(Word);
  static constexpr Word kSign = static_cast<Word>(Word{1} << (kBits - 1));

  static Word load(const void* from, size_t i) {
    Word w;
    std::memcpy(&w, static_cast<const char*>(from) + i * sizeof(Word), sizeof(Word));
    return w;
  }
  static void store(void* to, size_t i, Word w) {
    std::memcpy(static_cast<char*>(to) + i * sizeof(Word), &w, sizeof(Word));
  }
  // The bits of floats as whole numbers in their order, and back.
  static Word ordered(Word w) { return static_cast<Word>(w & kSign ? ~w : w | kSign); }
  static Word unordered(Word w) { return static_cast<Word>(w & kSign ? w & ~kSign : ~w); }
};

// The probabilities of everything that is coded under one exponent.
template <class Word>
struct Context {
  static constexpr int kBits = Words<Word>::kBits;
  static constexpr int kLevels = std::bit_width(static_cast<unsigned>(kBits));
  BitModel length[size_t{1} << kLevels];
  BitModel sign[kBits + 1][2];
  BitModel shape[kBits + 1][4];
};

template <class Word>
class Model {
 public:
  Context<Word>& under(Word before) {
    if constexpr (sizeof(Word) == 1)
      return contexts_[before & 0x7f];
    else
      return contexts_[(before >> (Words<Word>::kBits - 9)) & 0xff];
  }

 private:
  std::unique_ptr<Context<Word>[]> contexts_ = std::make_unique<Context<Word>[]>(256);
};

// One walk for both directions. `code(model, bit)` writes the bit, or reads and returns it; `rest(value, count)` the same for
// bits as they are.
template <class Word, class Code, class Rest>
Word walk(Model<Word>& model, Word before, Word difference, Code code, Rest rest) {
  using W = Words<Word>;
  Context<Word>& c = model.under(before);
  const bool minus = difference & W::kSign;
  const Word size = static_cast<Word>(minus ? -difference : difference);
  const unsigned length = static_cast<unsigned>(std::bit_width(size));
  unsigned node = 1;
  for (int level = Context<Word>::kLevels - 1; level >= 0; --level)
    node = node << 1 | unsigned{code(c.length[node], (length >> level & 1) != 0)};
  const unsigned n = node - (1u << Context<Word>::kLevels);
  if (n > static_cast<unsigned>(W::kBits)) fail_changes("a length is above the width of a word");
  if (n == 0) return 0;
  const bool negative = code(c.sign[n][(before & W::kSign) != 0], minus);
  Word made = 1;
  unsigned known = 1;
  int left = static_cast<int>(n) - 1;
  for (int i = 0; i < 2 && left > 0; ++i) {
    --left;
    const bool one = code(c.shape[n][known], (size >> left & 1) != 0);
    known = known << 1 | unsigned{one};
    made = static_cast<Word>(made << 1 | Word{one});
  }
  while (left > 0) {
    const int some = std::min(left, 32);
    left -= some;
    const uint64_t mask = (uint64_t{1} << some) - 1;
    made = static_cast<Word>(uint64_t{made} << (some & 63) | rest(uint64_t{size} >> left & mask, some));
  }
  return static_cast<Word>(negative ? -made : made);
}

template <class Word>
std::vector<uint8_t> pack_stretch(const void* now, const void* before, size_t at, size_t count) {
  using W = Words<Word>;
  std::vector<uint8_t> coded, raw;
  Model<Word> model;
  RangeEncoder encoder(coded);
  BitWriter writer(raw);
  for (size_t i = at; i < at + count; ++i) {
    const Word b = W::load(before, i);
    const auto difference = static_cast<Word>(W::ordered(W::load(now, i)) - W::ordered(b));
    walk<Word>(
        model, b, difference,
        [&](BitModel& m, bool bit) {
          encoder.bit(m, bit);
          return bit;
        },
        [&](uint64_t value, int bits) {
          writer.bits(value, bits);
          return value;
        });
  }
  encoder.finish();
  writer.finish();
  const size_t whole = count * sizeof(Word);
  const bool as_they_are = coded.size() + raw.size() >= whole;
  const uint32_t sizes[2] = {as_they_are ? 0 : static_cast<uint32_t>(coded.size()),
                             static_cast<uint32_t>(as_they_are ? whole : raw.size())};
  std::vector<uint8_t> out(kHead + sizes[0] + sizes[1]);
  std::memcpy(out.data(), sizes, kHead);
  if (as_they_are) {
    std::memcpy(out.data() + kHead, static_cast<const char*>(now) + at * sizeof(Word), whole);
  } else {
    std::memcpy(out.data() + kHead, coded.data(), coded.size());
    if (!raw.empty()) std::memcpy(out.data() + kHead + coded.size(), raw.data(), raw.size());
  }
  return out;
}

struct Stretch {
  const uint8_t* at;
  size_t coded, raw;
};

template <class Word>
void unpack_stretch(const Stretch& s, const void* before, size_t at, size_t count, void* now) {
  using W = Words<Word>;
  if (s.coded == 0) {
    if (s.raw != count * sizeof(Word)) fail_changes("a stretch of words as they are has another size");
    std::memcpy(static_cast<char*>(now) + at * sizeof(Word), s.at, s.raw);
    return;
  }
  Model<Word> model;
  RangeDecoder decoder(s.at, s.coded);
  BitReader reader(s.at + s.coded, s.raw);
  for (size_t i = at; i < at + count; ++i) {
    const Word b = W::load(before, i);
    const Word difference = walk<Word>(
        model, b, Word{0}, [&](BitModel& m, bool) { return decoder.bit(m); },
        [&](uint64_t, int bits) { return reader.bits(bits); });
    W::store(now, i, W::unordered(static_cast<Word>(W::ordered(b) + difference)));
  }
  if (!decoder.used_up() || !reader.used_up())
    fail_changes("a stretch has more or fewer bytes than it needs");
}

// fn(Word{}) for the unsigned type of that size.
template <class Fn>
void with_word(size_t word_bytes, Fn fn) {
  switch (word_bytes) {
    case 1:
      return fn(uint8_t{});
    case 2:
      return fn(uint16_t{});
    case 4:
      return fn(uint32_t{});
    case 8:
      return fn(uint64_t{});
    default:
      fail_argument("word_bytes must be 1, 2, 4 or 8, got " + std::to_string(word_bytes));
  }
}

size_t stretches(size_t count) { return (count + kStretch - 1) / kStretch; }
size_t words_in(size_t stretch, size_t count) { return std::min(kStretch, count - stretch * kStretch); }

}  // namespace

std::vector<uint8_t> pack_changes(const void* now, const void* before, size_t count, size_t word_bytes,
                                  int threads) {
  std::vector<std::vector<uint8_t>> parts(stretches(count));
  with_word(word_bytes, [&](auto word) {
    in_parallel(count, kStretch, threads, [&](size_t at, size_t n) {
      for (size_t i = at / kStretch; i * kStretch < at + n; ++i)
        parts[i] = pack_stretch<decltype(word)>(now, before, i * kStretch, words_in(i, count));
    });
  });
  std::vector<uint8_t> out;
  for (const auto& part : parts) out.insert(out.end(), part.begin(), part.end());
  return out;
}

void unpack_changes(const uint8_t* packed, size_t bytes, const void* before, size_t count, size_t word_bytes,
                    void* now, int threads) {
  std::vector<Stretch> parts(stretches(count));
  for (Stretch& s : parts) {
    if (bytes < kHead) fail_changes("they end before their last stretch");
    uint32_t sizes[2];
    std::memcpy(sizes, packed, kHead);
    packed += kHead;
    bytes -= kHead;
    s = {packed, sizes[0], sizes[1]};
    if (s.coded > bytes || s.raw > bytes - s.coded) fail_changes("a stretch is longer than what is there");
    packed += s.coded + s.raw;
    bytes -= s.coded + s.raw;
  }
  if (bytes) fail_changes("bytes follow the last stretch");
  with_word(word_bytes, [&](auto word) {
    in_parallel(count, kStretch, threads, [&](size_t at, size_t n) {
      for (size_t i = at / kStretch; i * kStretch < at + n; ++i)
        unpack_stretch<decltype(word)>(parts[i], before, i * kStretch, words_in(i, count), now);
    });
  });
}

}  // namespace gw
