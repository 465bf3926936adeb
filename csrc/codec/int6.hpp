// int6: blocks of 6-bit codes (quant.hpp); 6.5 bits an element at the default block of 32.
#pragma once
#include "codec/quant.hpp"

namespace gw::GW_ISA {

struct Int6 : BlockQuantizer<6> {
  static constexpr const char* kName = "int6";
  static CodecShape shape(const CodecParams& p) { return checked_shape(p, kName, 32); }
};

GW_CODEC(13, Int6)

}  // namespace gw::GW_ISA
