// int3: blocks of 3-bit codes (quant.hpp); 3.125 bits an element at the default block of 128.
#pragma once
#include "codec/quant.hpp"

namespace gw::GW_ISA {

struct Int3 : BlockQuantizer<3> {
  static constexpr const char* kName = "int3";
  static CodecShape shape(const CodecParams& p) { return checked_shape(p, kName, 128); }
};

GW_CODEC(11, Int3)

}  // namespace gw::GW_ISA
