// THE LIST of codecs. A codec is one header and its line here; names, ids, tests and benchmarks follow.
//
// A codec header defines a struct with these static members and ends with GW_CODEC(id, Struct):
//   kName, kLossy
//   kParameters                                     "block, seed": those it takes, as fields of CodecParams; or ""
//   CodecShape shape(const CodecParams&)            checks their values; throws Error(argument)
//   uint32_t pack(const CodecShape&)                wire_params
//   bool unpack(uint32_t, CodecShape&)              false: not a valid packing (compared canonically by the caller)
//   std::string arguments(const CodecShape&)        "block=32", or empty
//   size_t encoded_bytes(const CodecShape&, size_t count)     additive over multiples of block
//   encode(shape, x, piece, payload, loss)          the loops; payload and out as in class Codec
//   decode, decode_add(shape, payload, piece, out)
// A codec that needs no place takes `size_t count` instead of the piece. One whose size depends on the data returns the
// bytes from encode, takes decode(shape, payload, bytes, piece, out) and returns the bytes it used; its encoded_bytes is
// the most that encode writes. driver_cpu.cpp makes CodecLoops of either, and adds the residual.
// The first six are used by registry.cpp alone, the loops by driver_cpu.cpp alone. Two codecs of one id do not
// compile.
#pragma once
#include "codec/cast.hpp"
#include "codec/codec_entry.hpp"
#include "codec/fp8.hpp"
#include "codec/identity.hpp"
#include "codec/int2.hpp"
#include "codec/int3.hpp"
#include "codec/int4.hpp"
#include "codec/int5.hpp"
#include "codec/int6.hpp"
#include "codec/int8.hpp"
#include "codec/lossless.hpp"
#include "codec/mx.hpp"
#include "codec/nvfp4.hpp"
#include "codec/randk.hpp"
#include "codec/rice4.hpp"
#include "codec/rotated4.hpp"
#include "codec/sign.hpp"
#include "codec/topk.hpp"
