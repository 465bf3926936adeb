// A binary range coder with adaptive probabilities, and the bits that it is not worth asking for. Whole numbers
// only: the same bits give the same bytes everywhere.
//
// Martin, "Range encoding" (1979), in the form with a carry that LZMA made known: a range of 32 bits is cut in two in the
// ratio of the probabilities, and a byte leaves when the upper one is settled. A bit costs its surprise, to within
// 2^-12, and about 4 ns.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace gw {

// How likely the next bit is a zero, in 2^-12: the mean of a guess that learns fast and one that remembers.
class BitModel {
 public:
  uint32_t zero() const { return (uint32_t{fast_} + slow_) >> 5; }  // 1 .. 4094
  void learn(bool one) {
    if (one) {
      fast_ = static_cast<uint16_t>(fast_ - (fast_ >> 4));
      slow_ = static_cast<uint16_t>(slow_ - (slow_ >> 7));
    } else {
      fast_ = static_cast<uint16_t>(fast_ + ((0xffff - fast_) >> 4));
      slow_ = static_cast<uint16_t>(slow_ + ((0xffff - slow_) >> 7));
    }
  }

 private:
  uint16_t fast_ = 0x8000, slow_ = 0x8000;
};

class RangeEncoder {
 public:
  explicit RangeEncoder(std::vector<uint8_t>& out) : out_(out) {}
  void bit(BitModel& model, bool one) {
    const uint32_t bound = (range_ >> 12) * model.zero();
    if (one) {
      low_ += bound;
      range_ -= bound;
    } else {
      range_ = bound;
    }
    model.learn(one);
    for (; range_ < kTop; range_ <<= 8) shift();
  }
  void finish() {
    for (int i = 0; i < 5; ++i) shift();
  }

 private:
  static constexpr uint32_t kTop = 1u << 24;
  // The byte above the lower 24 bits leaves; bytes of 0xff wait, because a carry may still run through them.
  void shift() {
    if (low_ < 0xff000000u || low_ >> 32) {
      const auto carry = static_cast<uint8_t>(low_ >> 32);
      if (started_) out_.push_back(static_cast<uint8_t>(held_ + carry));
      for (; waiting_; --waiting_) out_.push_back(static_cast<uint8_t>(0xff + carry));
      held_ = static_cast<uint8_t>(low_ >> 24);
      started_ = true;
    } else {
      ++waiting_;
    }
    low_ = (low_ & 0xffffffu) << 8;
  }

  std::vector<uint8_t>& out_;
  uint64_t low_ = 0;
  uint32_t range_ = ~0u;
  size_t waiting_ = 0;
  uint8_t held_ = 0;
  bool started_ = false;
};

// Past the end it reads zeros, and `overran` says so: bytes may be hostile.
class RangeDecoder {
 public:
  RangeDecoder(const uint8_t* in, size_t bytes) : in_(in), end_(in + bytes) {
    for (int i = 0; i < 4; ++i) code_ = code_ << 8 | next();
  }
  bool bit(BitModel& model) {
    const uint32_t bound = (range_ >> 12) * model.zero();
    const bool one = code_ >= bound;
    if (one) {
      code_ -= bound;
      range_ -= bound;
    } else {
      range_ = bound;
    }
    model.learn(one);
    for (; range_ < (1u << 24); range_ <<= 8) code_ = code_ << 8 | next();
    return one;
  }
  // All that was written, and no more, has been read.
  bool used_up() const { return in_ == end_ && !overran_; }

 private:
  uint32_t next() {
    if (in_ < end_) return *in_++;
    overran_ = true;
    return 0;
  }

  const uint8_t *in_, *end_;
  uint32_t code_ = 0, range_ = ~0u;
  bool overran_ = false;
};

// Bits as they are, lowest first, filled up with zeros to a whole byte.
class BitWriter {
 public:
  explicit BitWriter(std::vector<uint8_t>& out) : out_(out) {}
  void bits(uint64_t value, int count) {  // count <= 32
    held_ |= value << count_;
    for (count_ += count; count_ >= 8; count_ -= 8, held_ >>= 8) out_.push_back(static_cast<uint8_t>(held_));
  }
  void finish() {
    if (count_) out_.push_back(static_cast<uint8_t>(held_));
  }

 private:
  std::vector<uint8_t>& out_;
  uint64_t held_ = 0;
  int count_ = 0;
};

class BitReader {
 public:
  BitReader(const uint8_t* in, size_t bytes) : in_(in), end_(in + bytes) {}
  uint64_t bits(int count) {  // count <= 32
    for (; count_ < count; count_ += 8) {
      overran_ |= in_ == end_;
      held_ |= uint64_t{in_ == end_ ? uint8_t{0} : *in_++} << count_;
    }
    const uint64_t value = held_ & ((uint64_t{1} << count) - 1);
    held_ >>= count;
    count_ -= count;
    return value;
  }
  bool used_up() const { return in_ == end_ && !overran_; }

 private:
  const uint8_t *in_, *end_;
  uint64_t held_ = 0;
  int count_ = 0;
  bool overran_ = false;
};

}  // namespace gw
