// What Python cannot reach: the Kernels table against a plain reference, from every instruction set, and headers.
#include "codec/codec.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "base/error.hpp"
#include "base/half.hpp"
#include "codec/isa.hpp"
#include "codec/kernels.hpp"
#include "codec/wire.hpp"

namespace {

using namespace gw;

template <class T>
struct Value {
  using Acc = T;
  static Acc widen(T v) { return v; }
  static T narrow(Acc v) { return v; }
};
template <>
struct Value<bf16_t> {
  using Acc = float;
  static Acc widen(bf16_t v) { return to_f32(v); }
  static bf16_t narrow(Acc v) { return to_bf16(v); }
};
template <>
struct Value<f16_t> {
  using Acc = float;
  static Acc widen(f16_t v) { return to_f32(v); }
  static f16_t narrow(Acc v) { return to_f16(v); }
};

// Left to right, one element at a time. Integers go through uint64_t: they wrap.
template <class T>
T reference(ReduceOp op, const std::vector<std::vector<T>>& sources, size_t i, double scale) {
  using Acc = typename Value<T>::Acc;
  Acc acc = Value<T>::widen(sources[0][i]);
  for (size_t s = 1; s < sources.size(); ++s) {
    const Acc v = Value<T>::widen(sources[s][i]);
    if (op == ReduceOp::min) acc = std::min(acc, v);
    if (op == ReduceOp::max) acc = std::max(acc, v);
    if constexpr (std::is_integral_v<Acc>) {
      if (op == ReduceOp::sum) acc = static_cast<Acc>(static_cast<uint64_t>(acc) + static_cast<uint64_t>(v));
      if (op == ReduceOp::prod) acc = static_cast<Acc>(static_cast<uint64_t>(acc) * static_cast<uint64_t>(v));
    } else {
      if (op == ReduceOp::sum) acc = acc + v;
      if (op == ReduceOp::prod) acc = acc * v;
    }
  }
  if constexpr (std::is_floating_point_v<Acc>) acc = acc * static_cast<Acc>(scale);
  return Value<T>::narrow(acc);
}

template <class T>
std::vector<T> values(std::mt19937& random, size_t count) {
  std::vector<T> v(count);
  for (T& e : v) {
    if constexpr (std::is_integral_v<T>)
      e = static_cast<T>(random() * uint64_t{0x9e3779b97f4a7c15});  // all bits in use, so that sums wrap
    else
      e = Value<T>::narrow(static_cast<typename Value<T>::Acc>(std::normal_distribution<>()(random)));
  }
  return v;
}

bool same_bytes(const void* a, const void* b, size_t bytes) {
  return bytes == 0 || std::memcmp(a, b, bytes) == 0;
}

template <class T>
void check_fold(DType dtype, ReduceOp op, size_t sources_count, size_t count, double scale) {
  std::mt19937 random(static_cast<unsigned>(count + sources_count));
  std::vector<std::vector<T>> sources;
  for (size_t s = 0; s < sources_count; ++s) sources.push_back(values<T>(random, count));
  std::vector<T> expected(count);
  for (size_t i = 0; i < count; ++i) expected[i] = reference<T>(op, sources, i, scale);
  const size_t bytes = count * sizeof(T);
  for (auto isa : isas()) {
    const Kernels& k = *kernels_for(std::string(isa).c_str());
    // out apart, then in place of each source, and once at an odd address with a copy
    for (size_t target = 0; target <= sources_count; ++target) {
      auto work = sources;
      std::vector<T> apart(count);
      std::vector<const void*> pointers;
      for (auto& w : work) pointers.push_back(w.data());
      std::vector<T>& out = target < sources_count ? work[target] : apart;
      k.fold(dtype, op, pointers.data(), static_cast<int>(sources_count), scale, out.data(), nullptr, count);
      CHECK(same_bytes(out.data(), expected.data(), bytes));
    }
    std::vector<std::vector<char>> odd(sources_count + 2, std::vector<char>(bytes + 1));
    std::vector<const void*> pointers;
    for (size_t s = 0; s < sources_count; ++s) {
      if (bytes) std::memcpy(odd[s].data() + 1, sources[s].data(), bytes);
      pointers.push_back(odd[s].data() + 1);
    }
    char* out = odd[sources_count].data() + 1;
    char* copy = odd[sources_count + 1].data() + 1;
    k.fold(dtype, op, pointers.data(), static_cast<int>(sources_count), scale, out, copy, count);
    CHECK(same_bytes(out, expected.data(), bytes));
    CHECK(same_bytes(copy, expected.data(), bytes));
  }
}

template <class T>
void check_dtype(DType dtype) {
  for (auto op : {ReduceOp::sum, ReduceOp::prod, ReduceOp::min, ReduceOp::max})
    for (size_t sources : {1, 2, 3, 4, 5, 9})
      for (size_t count : {0, 1, 17, 2049}) {
        check_fold<T>(dtype, op, sources, count, 1.0);
        if (is_float(dtype) && op == ReduceOp::sum) check_fold<T>(dtype, op, sources, count, 1.0 / 3);
      }
}

}  // namespace

TEST_CASE("fold is the plain left-to-right reference for every dtype, op and instruction set") {
  check_dtype<float>(DType::f32);
  check_dtype<double>(DType::f64);
  check_dtype<bf16_t>(DType::bf16);
  check_dtype<f16_t>(DType::f16);
  check_dtype<int32_t>(DType::i32);
  check_dtype<int64_t>(DType::i64);
  check_dtype<uint8_t>(DType::u8);
}

TEST_CASE("sums of every bf16 and one near it are rounded to nearest even, and NaN where the reference is") {
  std::mt19937 random(5);
  // exponents this far apart put half a unit of the result, and whatever lies next to it, into the other number
  for (int apart = -10; apart <= 10; ++apart) {
    std::vector<bf16_t> a, b;
    for (unsigned bits = 0; bits < 1u << 16; ++bits) {
      const unsigned mantissa = bits % 3 ? random() & 0x807fu : random() & 0x8001u;
      a.push_back({static_cast<uint16_t>(bits)});
      b.push_back({static_cast<uint16_t>(
          (((bits & 0x7f80u) + 128u * static_cast<unsigned>(apart)) & 0x7f80u) | mantissa)});
    }
    const void* sources[] = {a.data(), b.data()};
    for (const double scale : {1.0, 0.5})
      for (auto isa : isas()) {
        std::vector<bf16_t> out(a.size());
        kernels_for(std::string(isa).c_str())
            ->fold(DType::bf16, ReduceOp::sum, sources, 2, scale, out.data(), nullptr, out.size());
        size_t wrong = 0;
        for (size_t i = 0; i < out.size(); ++i) {
          const float x = to_f32(a[i]), y = to_f32(b[i]), sum = (x + y) * static_cast<float>(scale);
          // whose NaN it is when both are is up to the compiler
          const bool any = std::isnan(x) && std::isnan(y);
          wrong += any ? !std::isnan(to_f32(out[i])) : out[i].bits != to_bf16(sum).bits;
        }
        CHECK(wrong == 0);
      }
  }
}

TEST_CASE("min and max give NaN whichever source holds it") {
  for (auto isa : isas())
    for (auto op : {ReduceOp::min, ReduceOp::max})
      for (int holder : {0, 1, 2}) {
        std::vector<std::vector<float>> v(3, std::vector<float>(37, 1.0f));
        v[static_cast<size_t>(holder)][20] = std::nanf("");
        const void* sources[] = {v[0].data(), v[1].data(), v[2].data()};
        std::vector<float> out(37);
        kernels_for(std::string(isa).c_str())->fold(DType::f32, op, sources, 3, 1.0, out.data(), nullptr, 37);
        CHECK(std::isnan(out[20]));
        CHECK(out[19] == 1.0f);
      }
}

TEST_CASE("load, load_add, store and scale round where they say") {
  std::mt19937 random(7);
  const size_t count = 1001;
  const auto x = values<f16_t>(random, count);
  const auto residual = values<float>(random, count), start = values<float>(random, count);
  for (auto isa : isas()) {
    const Kernels& k = *kernels_for(std::string(isa).c_str());
    std::vector<float> loaded(count), with(count), acc = start, scaled = start;
    std::vector<f16_t> stored(count);
    k.load(DType::f16, x.data(), nullptr, loaded.data(), count);
    k.load(DType::f16, x.data(), residual.data(), with.data(), count);
    k.load_add(DType::f16, x.data(), residual.data(), acc.data(), count);
    k.store(DType::f16, start.data(), 0.1f, stored.data(), count);
    k.scale(scaled.data(), 0.1f, count);
    size_t wrong = 0;
    for (size_t i = 0; i < count; ++i) {
      const float inner = to_f32(x[i]) + residual[i];
      wrong += loaded[i] != to_f32(x[i]) || with[i] != inner || acc[i] != start[i] + inner ||
               stored[i].bits != to_f16(start[i] * 0.1f).bits || scaled[i] != start[i] * 0.1f;
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("kernels refuse what would be a bug of the caller") {
  const int x[2] = {1, 2};
  const void* sources[] = {x, x};
  int out[2];
  CHECK_THROWS_AS(kernels().fold(DType::i32, ReduceOp::sum, sources, 2, 0.5, out, nullptr, 2), Error);
  CHECK_THROWS_AS(kernels().fold(DType::i32, ReduceOp::avg, sources, 2, 1.0, out, nullptr, 2), Error);
  CHECK_THROWS_AS(kernels().store(DType::i32, nullptr, 1.0f, out, 0), Error);
}

TEST_CASE("the loss may overwrite the values") {
  std::mt19937 random(3);
  const auto x = values<float>(random, 4500);
  for (const char* name : {"identity", "bf16", "fp16", "int8", "int4", "topk"}) {
    const auto codec = make_codec(name);
    std::vector<std::byte> a(codec->encoded_bytes(x.size())), b(a.size());
    std::vector<float> loss(x.size()), in_place = x;
    codec->encode(x.data(), nullptr, {.count = x.size()}, a.data(), loss.data());
    codec->encode(in_place.data(), nullptr, {.count = x.size()}, b.data(), in_place.data());
    CHECK(a == b);
    CHECK(loss == in_place);
  }
}

TEST_CASE("a header says in words what it holds") {
  const auto int4 = make_codec("int4");
  FrameHeader h;
  h.codec = int4->id();
  h.params = int4->wire_params();
  h.dtype = static_cast<uint8_t>(DType::f32);
  h.op = static_cast<uint8_t>(ReduceOp::sum);
  h.collective = 1;
  h.total = 1000;
  h.seq = 12;
  std::byte bytes[kHeaderBytes];
  write_header(h, bytes);
  CHECK(describe(read_header(bytes), "all_reduce", "ring")
            .starts_with("all_reduce #12 sum float32[1000] codec int4(block=32) algorithm ring"));
  std::memset(bytes, 0xff, sizeof bytes);
  FrameHeader foreign = read_header(bytes);
  CHECK(describe(foreign, "", "").size() > 0);
  foreign.magic = kFrameMagic;
  foreign.version = kFrameVersion;
  CHECK(describe(foreign, "", "").find("codec ?255") != std::string::npos);
}
