// int2: blocks of 2-bit codes (quant.hpp); 2.125 bits an element at the default block of 128.
#pragma once
#include "codec/quant.hpp"

namespace gw::GW_ISA {

struct Int2 : BlockQuantizer<2> {
  static constexpr const char* kName = "int2";
  static CodecShape shape(const CodecParams& p) { return checked_shape(p, kName, 128); }
};

GW_CODEC(10, Int2)

}  // namespace gw::GW_ISA
