// THE LIST of codecs. A codec is one header and its line here; names, ids, tests and benchmarks follow.
//
// A codec header defines a struct with these static members and ends with GW_CODEC(id, Struct):
//   kName, kLossy
//   CodecShape shape(const CodecParams&)            checks; throws Error(argument)
//   uint32_t pack(const CodecShape&)                wire_params
//   bool unpack(uint32_t, CodecShape&)              false: not a valid packing (compared canonically by the caller)
//   std::string arguments(const CodecShape&)        "block=32", or empty
//   size_t encoded_bytes(const CodecShape&, size_t count)     additive over multiples of block
//   encode, decode, decode_add                      the loops, as in CodecLoops
// The first five are used by registry.cpp alone, the loops by driver_cpu.cpp alone. Two codecs of one id do not
// compile.
#pragma once
#include "codec/cast.hpp"
#include "codec/codec_entry.hpp"
#include "codec/identity.hpp"
#include "codec/int4.hpp"
#include "codec/int8.hpp"
#include "codec/topk.hpp"
