// Compiled once per instruction set: GW_ISA is its name, the flags are CMake's. Exports one function.
#ifndef GW_ISA
#error "compile with -DGW_ISA=portable, avx2, avx512 or neon"
#endif

#include <type_traits>

#include "codec/codecs.hpp"
#include "codec/copy_impl.hpp"
#include "codec/kernels_impl.hpp"
#include "codec/select.hpp"

#define GW_JOIN2(a, b) a##b
#define GW_JOIN(a, b) GW_JOIN2(a, b)
#define GW_TEXT2(a) #a
#define GW_TEXT(a) GW_TEXT2(a)

namespace gw {
namespace GW_ISA {

template <int Id>
constexpr void fill(CodecLoops* loops) {
  using C = typename CodecOf<Id>::type;
  if constexpr (!std::is_same_v<C, NoCodec>) loops[Id] = {&C::encode, &C::decode, &C::decode_add};
  if constexpr (Id + 1 < kCodecIds) fill<Id + 1>(loops);
}

constexpr IsaTable make_table() {
  IsaTable t{.kernels = {GW_TEXT(GW_ISA), fold, load, load_add, store, scale, copy, copy_streaming},
             .codecs = {},
             .find_at_least = find_at_least,
             .cut_at = cut_at};
  fill<0>(t.codecs);
  return t;
}

static constexpr IsaTable kTable = make_table();

}  // namespace GW_ISA

const IsaTable& GW_JOIN(isa_table_, GW_ISA)() { return GW_ISA::kTable; }

}  // namespace gw
