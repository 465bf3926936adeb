// The plug-in's kernels on the simulator: the CPU's bytes from every codec, in every order of threads and with blocks on several
// OS threads at once. tests/cuda tries many more cases; this is the way for the sanitizers to run the kernels. Arrays are
// exactly as long as they must be, so that AddressSanitizer sees a store behind them.
#include "codec/kernels.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "../peer_exchange.hpp"
#include "codec/registry.hpp"
#include "codec/topk_exact.hpp"
#include "cuda/plugin.h"
#include "cusim/cusim.hpp"

extern "C" int gradwire_cuda_table(uint32_t version, uint32_t size, gw_cuda_table* out);

using namespace gw;

namespace {

using Bytes = std::vector<std::byte>;

const gw_cuda_table& table() {
  static const gw_cuda_table t = [] {
    gw_cuda_table made{};
    REQUIRE(gradwire_cuda_table(GW_CUDA_VERSION, sizeof made, &made) == 0);
    return made;
  }();
  return t;
}

// "GPU" memory with `bytes` that begin at an odd place and end where it ends.
class Device {
 public:
  Device(size_t bytes, size_t shift) : bytes_(bytes), shift_(shift) {
    REQUIRE(table().allocate(0, bytes + shift, &memory_) == 0);
  }
  Device(const Bytes& b, size_t shift) : Device(b.size(), shift) { std::memcpy(data(), b.data(), b.size()); }
  ~Device() { table().release(0, memory_); }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  std::byte* data() const { return static_cast<std::byte*>(memory_) + shift_; }
  Bytes bytes() const { return {data(), data() + bytes_}; }

 private:
  void* memory_ = nullptr;
  size_t bytes_, shift_;
};

std::vector<float> normal(size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> distribution;
  std::vector<float> x(n);
  for (float& v : x) v = distribution(random);
  return x;
}
Bytes as(DType dtype, const std::vector<float>& x) {
  Bytes b(x.size() * size_of(dtype));
  kernels().store(dtype, x.data(), 1, b.data(), x.size());
  return b;
}
std::vector<float> widened(DType dtype, const Bytes& b) {
  std::vector<float> x(b.size() / size_of(dtype));
  kernels().load(dtype, b.data(), nullptr, x.data(), x.size());
  return x;
}

std::vector<CodecPtr> codecs() {
  std::vector<CodecPtr> all;
  const auto put = [&](const std::string& name, auto set) {
    CodecParams params;
    set(params);
    if (auto codec = make_codec(name, params); codec->fixed_size()) all.push_back(std::move(codec));
  };
  for (const auto& name : listed_codec_names()) put(name, [](CodecParams&) {});
  for (const char* name : {"int2", "int3", "int4", "int5", "int6"}) {
    put(name, [](CodecParams& p) { p.levels = "lloyd-max"; });
    put(name, [](CodecParams& p) { p.rounding = "stochastic", p.seed = 3; });
  }
  for (const char* name : {"fp8_e4m3", "fp8_e5m2"}) put(name, [](CodecParams& p) { p.block = 64; });
  put("int8", [](CodecParams& p) { p.rounding = "stochastic"; });
  put("rotated4", [](CodecParams& p) { p.scale = "unbiased"; });
  for (const char* name : {"topk", "randk"})
    for (const char* values : {"fp32", "int8", "int4"})
      for (double ratio : {0.01, 0.4}) put(name, [&](CodecParams& p) { p.values = values, p.ratio = ratio; });
  return all;
}

// How the simulator runs, for the time of a test.
struct Running {
  Running(cusim::Order order, int threads) {
    cusim::settings().order = order;
    cusim::settings().threads = threads;
  }
  ~Running() {
    cusim::settings().order = cusim::Order::forward;
    cusim::settings().threads = 1;
  }
};
const std::pair<cusim::Order, int> kRuns[] = {
    {cusim::Order::forward, 3}, {cusim::Order::reverse, 1}, {cusim::Order::random, 3}};
constexpr DType kDtypes[] = {DType::f32, DType::bf16, DType::f16};

struct Case {
  const Codec& codec;
  DType dtype;
  size_t count, shift;
  uint32_t residual;  // GW_RESIDUAL_FP32 and on
};

void check_case(const Case& c) {
  CAPTURE(c.codec.description());
  CAPTURE(c.count);
  CAPTURE(static_cast<int>(c.dtype));
  const CodecShape shape = shape_of(c.codec).value();
  const gw_cuda_codec codec{c.codec.id(), shape.block, shape.k, shape.values, shape.seed};
  const gw_cuda_piece piece{c.count, 0, 7, 0, 0, nullptr};
  const Piece where{.count = c.count, .step = 7};
  const auto dtype = static_cast<uint32_t>(c.dtype);
  CodecParams of_rest;
  if (c.residual == GW_RESIDUAL_INT8) of_rest.block = 64;
  const CodecPtr rest = make_codec(c.residual == GW_RESIDUAL_FP32   ? "identity"
                                   : c.residual == GW_RESIDUAL_BF16 ? "bf16"
                                                                    : "int8",
                                   of_rest);

  const Bytes x = as(c.dtype, normal(c.count, 1));
  std::vector<float> owed = normal(c.count, 2), value = widened(c.dtype, x);
  Bytes residual(rest->encoded_bytes(c.count)), payload(c.codec.encoded_bytes(c.count));
  rest->encode(owed.data(), nullptr, {.count = c.count}, residual.data(), nullptr);
  rest->decode(residual.data(), residual.size(), {.count = c.count}, owed.data());
  const Device there(x, c.shift * size_of(c.dtype)), sent(payload.size(), c.shift);
  // floats and halves lie at multiples of their size
  const Device left(residual, c.residual == GW_RESIDUAL_INT8 ? c.shift : 4 * c.shift);
  c.codec.encode(value.data(), owed.data(), where, payload.data(), owed.data());
  rest->encode(owed.data(), nullptr, {.count = c.count}, residual.data(), nullptr);
  REQUIRE(table().encode(&codec, &piece, {there.data(), dtype}, {left.data(), left.data(), c.residual},
                         sent.data()) == 0);
  REQUIRE(table().synchronize(0, nullptr) == 0);
  CHECK(sent.bytes() == payload);
  CHECK(left.bytes() == residual);

  std::vector<float> decoded(c.count);
  c.codec.decode(payload.data(), payload.size(), where, decoded.data());
  for (int add : {1, 0}) {
    REQUIRE(table().decode(&codec, &piece, sent.data(), {there.data(), dtype}, add) == 0);
    REQUIRE(table().synchronize(0, nullptr) == 0);
    std::vector<float> expected = decoded;
    for (size_t i = 0; add && i < c.count; ++i) expected[i] += value[i];
    CHECK(there.bytes() == as(c.dtype, expected));
  }
}

}  // namespace

TEST_CASE("the kernels of every codec give the CPU's bytes, and touch nothing else") {
  unsigned n = 0;
  for (const auto& codec : codecs())
    for (size_t count : {codec->block() + 1, size_t{20001}}) {
      const auto [order, threads] = kRuns[n % 3];
      const Running running(order, threads);
      // every residual with every dtype, over the codecs
      check_case({*codec, kDtypes[n % 3], count, n % 4, GW_RESIDUAL_FP32 + n / 2 % 3});
      ++n;
    }
  CHECK(n > 80);
}

// What blocks tell one another, and where they write side by side: also under ThreadSanitizer, a few seconds of it.
TEST_SUITE_BEGIN("between blocks");

TEST_CASE("blocks on several threads write side by side") {
  const Running running(cusim::Order::forward, 3);
  for (const char* name : {"int3", "int8", "nvfp4", "topk", "randk"})  // rows of odd sizes, and large blocks
    check_case({*make_codec(name, {}), DType::f32, 20001, 1, GW_RESIDUAL_INT8});
}

TEST_CASE("the k largest are those of the CPU when blocks wait for one another") {
  for (const auto& [order, threads] : kRuns)
    for (const bool equal : {false, true}) {
      const Running running(order, threads);
      const size_t count = 90001, k = 700;
      const std::vector<float> x = equal ? std::vector<float>(count, 1.0f) : normal(count, 5);
      std::vector<float> values(k);
      std::vector<int64_t> indices(k);
      topk_exact(x.data(), count, k, values.data(), indices.data());
      const Device there(as(DType::f32, x), 4), scratch(table().topk_bytes(count, k), 0), v(4 * k, 4),
          i(8 * k, 8);
      const gw_cuda_topk call{{there.data(), static_cast<uint32_t>(DType::f32)},
                              count,
                              k,
                              reinterpret_cast<float*>(v.data()),
                              reinterpret_cast<int64_t*>(i.data()),
                              scratch.data(),
                              0,
                              nullptr};
      REQUIRE(table().topk(&call) == 0);
      REQUIRE(table().synchronize(0, nullptr) == 0);
      CHECK(std::memcmp(v.data(), values.data(), 4 * k) == 0);
      CHECK(std::memcmp(i.data(), indices.data(), 8 * k) == 0);
    }
}

TEST_CASE("ranks exchange with codecs of every frame through one another's memory") {
  CodecParams all;  // nothing is dropped
  all.ratio = 1;
  all.values = "fp32";
  const std::pair<CodecPtr, bool> codecs[] = {{nullptr, true},
                                              {make_codec("int8"), true},
                                              {make_codec("topk", all), true},
                                              {make_codec("randk", all), true},
                                              {make_codec("nvfp4"), false}};
  for (const auto& [codec, exact] : codecs)
    for (const char* algorithm : {"direct", "double_tree"}) {
      PeerExchange exchange(algorithm, 3, codec, 9001);
      exchange.fill();
      REQUIRE(table().exchange(&exchange.call) == 0);
      REQUIRE(table().synchronize(0, nullptr) == 0);
      CHECK(exchange.wrong(exact ? exchange.sum() : exchange.arrays[0][0]) == 0);
    }
}

TEST_SUITE_END();
