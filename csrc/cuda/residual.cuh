// Residuals in their three forms: fp32, or coded as the codecs bf16 and int8(block=64) do, for less memory and less to read
// and write. What a thread holds is added to its 8 values, and replaced by what encoding them lost.
#pragma once
#include "cuda/lanes.cuh"
#include "cuda/memory.cuh"
#include "cuda/plugin.h"
// then
#include "codec/scale.hpp"

namespace gw::cuda {

inline constexpr uint32_t kResidualBlock = 64, kResidualBytes = 2 + kResidualBlock;

// v += owed
GW_DEVICE void add_owed(uint32_t kind, const void* owed, size_t at, size_t count, float (&v)[kValues]) {
  if (!owed) return;
  float r[kValues] = {};
  if (kind == GW_RESIDUAL_FP32) {
    load_floats(owed, at, count, r);
  } else if (kind == GW_RESIDUAL_BF16) {
    load_halves<bf16_t>(owed, at, count, r);
  } else if (at < count) {
    const auto* block = static_cast<const uint8_t*>(owed) + at / kResidualBlock * kResidualBytes;
    const float d = float_of((uint32_t{block[0]} | uint32_t{block[1]} << 8) << 16);
    const uint8_t* codes = block + 2 + at % kResidualBlock;
    for (size_t k = 0; k < kValues; ++k)
      if (at + k < count) r[k] = scaled(static_cast<float>(static_cast<int8_t>(codes[k])), d);
  }
  for (int k = 0; k < kValues; ++k) v[k] = sum_of(v[k], r[k]);
}

// loss = lost. All lanes of a warp call it together, with consecutive elements.
GW_DEVICE void put_loss(uint32_t kind, void* loss, size_t at, size_t count, const float (&lost)[kValues]) {
  if (!loss) return;
  if (kind == GW_RESIDUAL_FP32) return store_floats(loss, at, count, lost);
  if (kind == GW_RESIDUAL_BF16) return store_halves<bf16_t>(loss, at, count, lost);
  uint32_t stat = 0;
  for (size_t k = 0; k < kValues; ++k)
    if (at + k < count) stat = max_of(stat, statistic(lost[k]));
  stat = block_max(stat, kResidualBlock / kValues);
  if (at >= count) return;
  const Scale s = scale_of<8>(stat);
  auto* block = static_cast<uint8_t*>(loss) + at / kResidualBlock * kResidualBytes;
  if (at % kResidualBlock == 0) {
    block[0] = static_cast<uint8_t>(s.bits);
    block[1] = static_cast<uint8_t>(s.bits >> 8);
  }
  uint8_t* codes = block + 2 + at % kResidualBlock;
  for (size_t k = 0; k < kValues; ++k)
    if (at + k < count)
      codes[k] = static_cast<uint8_t>(s.bits == kNanScale ? 0 : code_of<8>(lost[k], s.inverse));
}

}  // namespace gw::cuda
