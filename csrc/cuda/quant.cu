// int8 to int2 in all their roundings and levels, and sign.
#include "cuda/quant.cuh"
// then
#include "cuda/kernels.cuh"

namespace gw::cuda {
namespace {

// values of CodecShape: 1 Lloyd-Max levels, 2 stochastic rounding (quant.hpp)
template <int Bits>
int run_bits(const Task& t) {
  if (t.codec.values == 2) {
    if (!t.decode) return run_rows<QuantRow<EvenGrid<Bits, true>>>(t.call, false, t.where);
  } else if (t.codec.values == 1) {
    if constexpr (Bits < 8) return run_rows<QuantRow<LloydGrid<Bits>>>(t.call, t.decode, t.where);
  }
  return run_rows<QuantRow<EvenGrid<Bits, false>>>(t.call, t.decode, t.where);
}

}  // namespace

int run_quant(const Task& t) {
  switch (t.codec.id) {
    case 3:
      return run_bits<8>(t);
    case 4:
      return run_bits<4>(t);
    case 10:
      return run_bits<2>(t);
    case 11:
      return run_bits<3>(t);
    case 12:
      return run_bits<5>(t);
    case 13:
      return run_bits<6>(t);
    case 14:
      return run_rows<QuantRow<SignOnly>>(t.call, t.decode, t.where);
    default:
      return GW_CUDA_NO_KERNEL;
  }
}

}  // namespace gw::cuda
