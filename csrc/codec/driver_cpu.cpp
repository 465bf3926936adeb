// Compiled once per instruction set: GW_ISA is its name, the flags are CMake's. Exports one function.
#ifndef GW_ISA
#error "compile with -DGW_ISA=portable, avx2, avx512 or neon"
#endif

#include <type_traits>

#include "codec/codecs.hpp"
#include "codec/copy_impl.hpp"
#include "codec/kernels_impl.hpp"
#include "codec/low_rank.hpp"
#include "codec/select.hpp"

#define GW_JOIN2(a, b) a##b
#define GW_JOIN(a, b) GW_JOIN2(a, b)
#define GW_TEXT2(a) #a
#define GW_TEXT(a) GW_TEXT2(a)

namespace gw {
namespace GW_ISA {

// The loops of one codec as CodecLoops wants them.
template <class C>
struct Loops {
  static GW_INLINE auto place(const Piece& p) {
    if constexpr (kPlaced<C>)
      return p;
    else
      return p.count;
  }

  static size_t encode_plain(const CodecShape& s, const float* x, const Piece& p, std::byte* payload,
                             float* loss) {
    if constexpr (kFixedSize<C>) {
      C::encode(s, x, place(p), payload, loss);
      return C::encoded_bytes(s, p.count);
    } else {
      return C::encode(s, x, place(p), payload, loss);
    }
  }

  // With a residual, the sum is made in stretches that stay in the nearest cache: value and residual are read once,
  // payload and residual written once.
  static size_t encode(const CodecShape& s, const float* x, const float* owed, const Piece& piece,
                       std::byte* payload, float* loss) {
    if (!owed) return encode_plain(s, x, piece, payload, loss);
    if (s.block > kStretch) fail_kernel("a block is larger than the stretch of a residual");
    const size_t stretch = kStretch / s.block * s.block;
    alignas(64) float sum[kStretch];
    size_t bytes = 0;
    for (size_t at = 0; at < piece.count; at += stretch) {
      Piece part = piece;
      part.first += at;
      part.count = min_of(stretch, piece.count - at);
      for (size_t i = 0; i < part.count; ++i) sum[i] = x[at + i] + owed[at + i];
      bytes += encode_plain(s, sum, part, payload + bytes, loss ? loss + at : nullptr);
    }
    return bytes;
  }

  static size_t decode(const CodecShape& s, const std::byte* payload, size_t bytes, const Piece& p,
                       float* out) {
    if constexpr (kFixedSize<C>) {
      const size_t needed = C::encoded_bytes(s, p.count);
      if (bytes < needed) fail_truncated(needed, bytes);
      C::decode(s, payload, place(p), out);
      return needed;
    } else {
      return C::decode(s, payload, bytes, place(p), out);
    }
  }
  static size_t decode_add(const CodecShape& s, const std::byte* payload, size_t bytes, const Piece& p,
                           float* acc) {
    if constexpr (kFixedSize<C>) {
      const size_t needed = C::encoded_bytes(s, p.count);
      if (bytes < needed) fail_truncated(needed, bytes);
      C::decode_add(s, payload, place(p), acc);
      return needed;
    } else {
      return C::decode_add(s, payload, bytes, place(p), acc);
    }
  }

 private:
  static constexpr size_t kStretch = 4096;  // elements
};

template <int Id>
constexpr void fill(CodecLoops* loops) {
  using C = typename CodecOf<Id>::type;
  if constexpr (!std::is_same_v<C, NoCodec>)
    loops[Id] = {&Loops<C>::encode, &Loops<C>::decode, &Loops<C>::decode_add};
  if constexpr (Id + 1 < kCodecIds) fill<Id + 1>(loops);
}

constexpr IsaTable make_table() {
  IsaTable t{.kernels = {GW_TEXT(GW_ISA), fold, load, load_add, store, scale, copy, copy_streaming},
             .codecs = {},
             .find_at_least = find_at_least,
             .cut_at = cut_at,
             .low_rank = {low_rank_project, low_rank_back_project, low_rank_restore, orthonormalize}};
  fill<0>(t.codecs);
  return t;
}

static constexpr IsaTable kTable = make_table();

}  // namespace GW_ISA

const IsaTable& GW_JOIN(isa_table_, GW_ISA)() { return GW_ISA::kTable; }

}  // namespace gw
