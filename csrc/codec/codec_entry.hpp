// How a codec header enters THE LIST: GW_CODEC makes the id lead to the type, so the list is complete as soon as the
// headers are included, at compile time, without start-up code.
#pragma once
#include <cstdint>
#include <string>
#include <type_traits>

#include "base/error.hpp"
#include "codec/codec.hpp"
#include "codec/isa.hpp"
#include "codec/simd.hpp"

namespace gw::GW_ISA {

struct NoCodec {};
template <int Id>
struct CodecOf {
  using type = NoCodec;
};

#define GW_CODEC(id, Type)                            \
  static_assert((id) >= 0 && (id) < ::gw::kCodecIds); \
  template <>                                         \
  struct CodecOf<id> {                                \
    using type = Type;                                \
  };

// What a codec is, read off its encode: whether it takes a Piece or a count, and whether it returns a size.
template <class C>
inline constexpr bool kPlaced = requires(const CodecShape& s, const float* x, const Piece& p, std::byte* to,
                                         float* loss) { C::encode(s, x, p, to, loss); };
template <class C>
constexpr bool has_fixed_size() {
  using Place = std::conditional_t<kPlaced<C>, Piece, size_t>;
  using Result = decltype(C::encode(CodecShape{}, nullptr, Place{}, nullptr, nullptr));
  return std::is_void_v<Result>;
}
template <class C>
inline constexpr bool kFixedSize = has_fixed_size<C>();

}  // namespace gw::GW_ISA
