// int4: signed-max blocks of 4-bit codes (quant.hpp); 4.5 bits an element at the default block of 32.
// Error bound of a block: max|x| (2^-3 + 2^-8).
#pragma once
#include "codec/quant.hpp"

namespace gw::GW_ISA {

struct Int4 : BlockQuantizer<4> {
  static constexpr const char* kName = "int4";
  static CodecShape shape(const CodecParams& p) { return checked_shape(p, kName, 32); }
};

GW_CODEC(4, Int4)

}  // namespace gw::GW_ISA
