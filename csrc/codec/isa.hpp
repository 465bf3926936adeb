// What one instruction set exports, and the choice among them. driver_cpu.cpp is compiled once per instruction set
// with GW_ISA set to its name; everything in it lives in namespace gw::GW_ISA, so that the linker can never merge a
// function built with AVX-512 into code that runs everywhere. For the same reason these files use plain arrays,
// builtins and always_inline functions instead of inline functions of std::.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "codec/codec.hpp"
#include "codec/kernels.hpp"

namespace gw {

// A codec's parameters after checking: all that its loops need.
struct CodecShape {
  uint32_t block = 1;   // elements
  uint32_t k = 0;       // top-k: kept elements of a full block
  uint32_t values = 0;  // top-k: ValueKind
  uint32_t seed = 0;
};

// Same meaning as the functions of class Codec; the shape stands for its `this`.
struct CodecLoops {
  size_t (*encode)(const CodecShape& shape, const float* x, const float* owed, const Piece& piece,
                   std::byte* payload, float* loss) = nullptr;
  size_t (*decode)(const CodecShape& shape, const std::byte* payload, size_t bytes, const Piece& piece,
                   float* out) = nullptr;
  size_t (*decode_add)(const CodecShape& shape, const std::byte* payload, size_t bytes, const Piece& piece,
                       float* acc) = nullptr;
};

// Ids in use are below this; raise it when a codec needs more.
inline constexpr int kCodecIds = 32;

// low_rank.hpp: the matrix m is [rows, cols], p [rank][rows], q [rank][cols].
struct LowRankLoops {
  void (*project)(const float* m, size_t rows, size_t cols, size_t rank, const float* q, float* p);
  void (*back_project)(const float* m, size_t rows, size_t cols, size_t rank, const float* p, float* q);
  void (*restore)(const float* p, const float* q, size_t rows, size_t cols, size_t rank, float* m,
                  float* out);
  size_t (*orthonormalize)(float* p, size_t rows, size_t rank);
};

struct IsaTable {
  Kernels kernels;
  CodecLoops codecs[kCodecIds];
  // select.hpp; count < 2^31.
  size_t (*find_at_least)(const float* x, size_t count, uint32_t threshold, uint32_t* indices);
  uint32_t (*cut_at)(const uint32_t* values, size_t count, size_t k, size_t slack, uint32_t guess);
  LowRankLoops low_rank;
};

const IsaTable& isa_table_portable();
const IsaTable& isa_table_avx2();
const IsaTable& isa_table_avx512();
const IsaTable& isa_table_neon();

const IsaTable& isa_table();                          // the one in use
const IsaTable* isa_table_for(std::string_view isa);  // null: not in this build or not on this CPU
std::vector<std::string_view> isas();                 // those that can run here, best first
// For tests: switches every later call of the process. Throws Error(argument) naming the possible ones.
void use_isa(std::string_view isa);

// Called from the per-instruction-set code, which must not build strings itself.
[[noreturn]] void fail_kernel(const char* what);                      // a bug of the caller: Error(internal)
[[noreturn]] void fail_payload(const char* what, size_t at_element);  // hostile bytes: Error(frame)
[[noreturn]] void fail_truncated(size_t expected, size_t got);        // the same, bytes

}  // namespace gw
