// int5: blocks of 5-bit codes (quant.hpp); 5.125 bits an element at the default block of 128.
#pragma once
#include "codec/quant.hpp"

namespace gw::GW_ISA {

struct Int5 : BlockQuantizer<5> {
  static constexpr const char* kName = "int5";
  static CodecShape shape(const CodecParams& p) { return checked_shape(p, kName, 128); }
};

GW_CODEC(12, Int5)

}  // namespace gw::GW_ISA
