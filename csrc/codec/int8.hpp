// int8: signed-max blocks of 8-bit codes (quant.hpp); 8.125 bits an element at the default block of 128.
// Error bound of a block: max|x| (2^-7 + 2^-8).
#pragma once
#include "codec/quant.hpp"

namespace gw::GW_ISA {

struct Int8 : BlockQuantizer<8> {
  static constexpr const char* kName = "int8";
  static CodecShape shape(const CodecParams& p) { return checked_shape(p, kName, 128); }
};

GW_CODEC(3, Int8)

}  // namespace gw::GW_ISA
