// Between memory of any alignment and registers or shared memory, 16 bytes at a time wherever the addresses allow it.
#pragma once
#include "cuda/device.cuh"
// device.cuh first: it chooses the namespace
#include "base/dtype.hpp"
#include "codec/simd.hpp"

namespace gw::cuda {

inline constexpr int kValues = 8;  // of a thread: 16 bytes of the narrowest dtype

GW_DEVICE bool aligned16(const void* p) { return (reinterpret_cast<uintptr_t>(p) & 15) == 0; }

// Of `result` = a op b: the NaN that the CPU makes of it. GPUs make every NaN the same one.
GW_DEVICE float as_on_cpu(float result, float a, float b) {
  if (result == result) return result;
  const uint32_t nan = a != a ? bits_of(a) : b != b ? bits_of(b) : 0xffc00000u;
  return float_of(nan | 0x00400000u);
}
GW_DEVICE float sum_of(float a, float b) { return as_on_cpu(a + b, a, b); }
GW_DEVICE float difference_of(float a, float b) { return as_on_cpu(a - b, a, b); }
GW_DEVICE float product_of(float a, float b) { return as_on_cpu(a * b, a, b); }
// code * scale, of which only the scale may be NaN.
GW_DEVICE float scaled(float code, float d) {
  const float v = code * d;
  return v == v ? v : float_of(0x7fc00000u);
}

template <class T>
GW_DEVICE void unpack16(uint4 from, T (&to)[16 / sizeof(T)]) {
  __builtin_memcpy(to, &from, 16);
}
template <class T>
GW_DEVICE uint4 pack16(const T (&from)[16 / sizeof(T)]) {
  uint4 to;
  __builtin_memcpy(&to, from, 16);
  return to;
}

// v[k] = element at + k as fp32, 0 from `count` on.
template <class Half>
GW_DEVICE void load_halves(const void* array, size_t at, size_t count, float (&v)[kValues]) {
  const auto* x = static_cast<const uint16_t*>(array) + at;
  uint16_t bits[kValues] = {};
  if (at + kValues <= count && aligned16(x)) {
    unpack16(*reinterpret_cast<const uint4*>(x), bits);
  } else {
    for (int k = 0; k < kValues; ++k)
      if (at + static_cast<size_t>(k) < count) bits[k] = x[k];
  }
  for (int k = 0; k < kValues; ++k) v[k] = widen(Half{bits[k]});
}
GW_DEVICE void load_floats(const void* array, size_t at, size_t count, float (&v)[kValues]) {
  const auto* x = static_cast<const float*>(array) + at;
  if (at + kValues <= count && aligned16(x)) {
    const auto* quads = reinterpret_cast<const float4*>(x);
    const float4 a = quads[0], b = quads[1];
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
  } else {
    for (int k = 0; k < kValues; ++k) v[k] = at + static_cast<size_t>(k) < count ? x[k] : 0.0f;
  }
}
GW_DEVICE void load(DType dtype, const void* array, size_t at, size_t count, float (&v)[kValues]) {
  if (dtype == DType::f32)
    load_floats(array, at, count, v);
  else if (dtype == DType::bf16)
    load_halves<bf16_t>(array, at, count, v);
  else
    load_halves<f16_t>(array, at, count, v);
}

// The reverse; elements from `count` on are not touched.
template <class Half>
GW_DEVICE void store_halves(void* array, size_t at, size_t count, const float (&v)[kValues]) {
  auto* x = static_cast<uint16_t*>(array) + at;
  uint16_t bits[kValues];
  for (int k = 0; k < kValues; ++k) bits[k] = narrow_to(v[k], Half{}).bits;
  if (at + kValues <= count && aligned16(x)) {
    *reinterpret_cast<uint4*>(x) = pack16(bits);
  } else {
    for (int k = 0; k < kValues; ++k)
      if (at + static_cast<size_t>(k) < count) x[k] = bits[k];
  }
}
GW_DEVICE void store_floats(void* array, size_t at, size_t count, const float (&v)[kValues]) {
  auto* x = static_cast<float*>(array) + at;
  if (at + kValues <= count && aligned16(x)) {
    auto* quads = reinterpret_cast<float4*>(x);
    quads[0] = {v[0], v[1], v[2], v[3]};
    quads[1] = {v[4], v[5], v[6], v[7]};
  } else {
    for (int k = 0; k < kValues; ++k)
      if (at + static_cast<size_t>(k) < count) x[k] = v[k];
  }
}
GW_DEVICE void store(DType dtype, void* array, size_t at, size_t count, const float (&v)[kValues]) {
  if (dtype == DType::f32)
    store_floats(array, at, count, v);
  else if (dtype == DType::bf16)
    store_halves<bf16_t>(array, at, count, v);
  else
    store_halves<f16_t>(array, at, count, v);
}

// A single element.
GW_DEVICE float load_one(DType dtype, const void* array, size_t at) {
  if (dtype == DType::f32) return static_cast<const float*>(array)[at];
  const uint16_t bits = static_cast<const uint16_t*>(array)[at];
  return dtype == DType::bf16 ? widen(bf16_t{bits}) : widen(f16_t{bits});
}
GW_DEVICE void store_one(DType dtype, void* array, size_t at, float v) {
  if (dtype == DType::f32)
    static_cast<float*>(array)[at] = v;
  else
    static_cast<uint16_t*>(array)[at] =
        dtype == DType::bf16 ? narrow_to(v, bf16_t{}).bits : narrow_to(v, f16_t{}).bits;
}

// Some threads that work together: all of a warp, or all of a block.
struct Team {
  uint32_t rank, size;
};

// 16 bytes of shared memory from any place in it. May read up to 4 bytes behind them.
GW_DEVICE uint4 read16(const uint8_t* from) {
  const auto address = reinterpret_cast<uintptr_t>(from);
  if ((address & 15) == 0) return *reinterpret_cast<const uint4*>(from);
  const auto* words = reinterpret_cast<const uint32_t*>(address & ~uintptr_t{3});
  const uint32_t shift = static_cast<uint32_t>(address & 3) * 8;
  uint32_t w[5], out[4];
  for (int i = 0; i < 5; ++i) w[i] = words[i];
  for (int i = 0; i < 4; ++i) out[i] = static_cast<uint32_t>((uint64_t{w[i + 1]} << 32 | w[i]) >> shift);
  return {out[0], out[1], out[2], out[3]};
}
GW_DEVICE void write16(uint8_t* to, uint4 v) {
  const auto address = reinterpret_cast<uintptr_t>(to);
  if ((address & 15) == 0) {
    *reinterpret_cast<uint4*>(to) = v;
  } else if ((address & 3) == 0) {
    uint32_t words[4];
    unpack16(v, words);
    for (int i = 0; i < 4; ++i) reinterpret_cast<uint32_t*>(to)[i] = words[i];
  } else {
    uint8_t bytes[16];
    unpack16(v, bytes);
    for (int i = 0; i < 16; ++i) to[i] = bytes[i];
  }
}

// Staged bytes to their place in memory. `staged` is aligned to 16 bytes and has 4 to spare behind `bytes`.
GW_DEVICE void copy_out(const uint8_t* staged, uint8_t* to, uint32_t bytes, Team team) {
  const uint32_t head = min_of(bytes, static_cast<uint32_t>(-reinterpret_cast<uintptr_t>(to) & 15));
  const uint32_t units = (bytes - head) / 16, tail = head + units * 16;
  for (uint32_t i = team.rank; i < head; i += team.size) to[i] = staged[i];
  for (uint32_t i = team.rank; i < units; i += team.size)
    *reinterpret_cast<uint4*>(to + head + i * 16) = read16(staged + head + i * 16);
  for (uint32_t i = tail + team.rank; i < bytes; i += team.size) to[i] = staged[i];
}
GW_DEVICE void copy_in(const uint8_t* from, uint8_t* staged, uint32_t bytes, Team team) {
  const uint32_t head = min_of(bytes, static_cast<uint32_t>(-reinterpret_cast<uintptr_t>(from) & 15));
  const uint32_t units = (bytes - head) / 16, tail = head + units * 16;
  for (uint32_t i = team.rank; i < head; i += team.size) staged[i] = from[i];
  for (uint32_t i = team.rank; i < units; i += team.size)
    write16(staged + head + i * 16, *reinterpret_cast<const uint4*>(from + head + i * 16));
  for (uint32_t i = tail + team.rank; i < bytes; i += team.size) staged[i] = from[i];
}

// Numbers at even addresses of shared memory, which put_u16 of simd.hpp would take apart into bytes.
GW_DEVICE void put_half(uint8_t* to, uint32_t v) {
  *reinterpret_cast<uint16_t*>(to) = static_cast<uint16_t>(v);
}
GW_DEVICE uint32_t get_half(const uint8_t* from) { return *reinterpret_cast<const uint16_t*>(from); }
GW_DEVICE void put_word(uint8_t* to, uint32_t v) {
  put_half(to, v);
  put_half(to + 2, v >> 16);
}
GW_DEVICE uint32_t get_word(const uint8_t* from) { return get_half(from) | get_half(from + 2) << 16; }

}  // namespace gw::cuda
