// How a codec header enters THE LIST: GW_CODEC makes the id lead to the type, so the list is complete as soon as the
// headers are included, at compile time, without start-up code.
#pragma once
#include <cstdint>
#include <string>

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

// For codecs without parameters.
inline void refuse_parameters(const CodecParams& p, const char* codec) {
  if (p.block != 0 || p.ratio != 0 || !p.values.empty())
    fail_argument(std::string("codec ") + codec + " takes no parameters");
}

}  // namespace gw::GW_ISA
