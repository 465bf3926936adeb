// What changed between two arrays of the same floats, bit for bit: what a chain of checkpoints holds.
//
// Words of 1, 2, 4 or 8 bytes are the bits of floats of that size (integers and bytes come back just as well). Words
// are put in the order of the floats: the difference now - before, modulo 2^W, then counts representable values, and is
// small where the relative change is. Of it travel
//
//   * its length in bits, 0 to W, its sign, and the two bits below the leading one, each as a tree of binary decisions in a range
//     coder (range_coder.hpp) whose probabilities adapt and depend on the upper bits of the word before: its
//     exponent. An optimizer moves small and large values by similar amounts, so the exponent tells the length;
//   * the bits below those, as they are: they are noise.
//
// Packed: stretches of 2^17 words, each of which learns by itself (threads may share them). A stretch of n words is u32 C,
// u32 R, C bytes of the range coder, R bytes of bits, lowest first; or C = 0, R = n W / 8 and the words, if that is not
// longer. Order: the tree of the length, its upper bit first, under the exponent; the sign (1: negative), under the
// exponent, the length and the sign before; if the length is above 1 the bit below the leading one, if above 2 the next,
// under the exponent, the length and what is known. Little-endian. On one core (2 cores, 2026-11)
// 66 ns a word to pack, 72 to unpack; on two half of that.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace gw {

// now, before: count words of word_bytes each, at any address. threads: at most so many; the bytes do not depend
// on it.
std::vector<uint8_t> pack_changes(const void* now, const void* before, size_t count, size_t word_bytes,
                                  int threads);

// now = before + changes. May not overlap. Throws Error(frame) if the bytes are not such changes of `count` words;
// `now` then holds any values.
void unpack_changes(const uint8_t* packed, size_t bytes, const void* before, size_t count, size_t word_bytes,
                    void* now, int threads);

}  // namespace gw
