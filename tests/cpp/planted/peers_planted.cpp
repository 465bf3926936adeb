// gw_planted BUG: an all_reduce between ranks by the device's executor on the simulator, each block on an OS thread, with a bug
// planted: none, relaxed (a signal without release and acquire), no_barrier (a signal before the whole block is done) or
// out_of_bounds (a store behind an array). tools/sanitize.sh runs it: with none the sums are exact and no sanitizer speaks,
// with any other the sanitizer whose business it is does.
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "comm/peer_program.hpp"
#include "cuda/peer_rows.cuh"
#include "cuda/peer_values.cuh"
#include "cuda/quant.cuh"

namespace {

using namespace gw;
using namespace gw::cuda;

struct Relaxed : Signals {
  static void raise(uint32_t* at, uint32_t number) { __atomic_store_n(at, number, __ATOMIC_RELAXED); }
  static uint32_t look(const uint32_t* at) { return __atomic_load_n(at, __ATOMIC_RELAXED); }
};
struct NoBarrier : Signals {
  static void gather() {}
};
struct OneTooMany : Values<DType::f32> {
  using Values::Values;
  void work(gw_cuda_unit u, const Sources& sources) const {
    ++u.count;
    Values::work(u, sources);
  }
};

using Body = void (*)(const gw_cuda_exchange&);
Body body_of(const std::string& bug) {
  using Plain = Values<DType::f32>;
  if (bug == "none") return run_units<Plain, Signals>;
  if (bug == "relaxed") return run_units<Plain, Relaxed>;
  if (bug == "no_barrier") return run_units<Plain, NoBarrier>;
  if (bug == "out_of_bounds") return run_units<OneTooMany, Signals>;
  return nullptr;
}

// Ranks with the values rank + 1; the number of those that do not end with the sum.
size_t wrong_after(Body body, const char* algorithm, int ranks, const CodecPtr& codec) {
  constexpr size_t kCount = 20001;
  const Operation op{
      .op = ReduceOp::sum, .dtype = DType::f32, .count = kCount, .codec = codec, .algorithm = {}};
  const PeerProgram p = make_peer_program(op, algorithm, {.ranks = ranks, .most_blocks = 2});
  std::vector<std::vector<float>> arrays;
  std::vector<std::vector<uint8_t>> frames;
  std::vector<std::vector<uint32_t>> signals;
  gw_cuda_exchange e{};
  e.codec = {codec ? codec->id() : GW_NO_CODEC, 128, 0, 0, 0};
  for (int r = 0; r < ranks; ++r) {
    arrays.emplace_back(kCount, static_cast<float>(r + 1));
    frames.emplace_back(p.frame_bytes + 64);
    signals.emplace_back(GW_PEER_HEAD + size_t{p.blocks} * p.stride);
    e.array[r] = arrays.back().data();
    e.frames[r] = frames.back().data() + (64 - reinterpret_cast<uintptr_t>(frames.back().data()) % 64) % 64;
    e.signals[r] = signals.back().data();
  }
  e.units = p.units.data();
  e.places = p.places.data();
  e.begins = p.begins.data();
  e.limit_ns = 20'000'000'000;
  e.stride = p.stride;
  e.blocks = p.blocks;
  e.ranks = e.launched = static_cast<uint32_t>(ranks);
  e.dtype = static_cast<uint32_t>(DType::f32);
  e.op = static_cast<uint32_t>(ReduceOp::sum);
  e.scale = 1;
  e.lossy = codec != nullptr;
  struct Call {
    Body body;
    const gw_cuda_exchange* e;
  };
  const Call call{body, &e};
  constexpr auto run =
      +[](const void* c) { static_cast<const Call*>(c)->body(*static_cast<const Call*>(c)->e); };
  for (int repeat = 0; repeat < 2; ++repeat) {  // signals go on counting
    for (int r = 0; r < ranks; ++r) arrays[static_cast<size_t>(r)].assign(kCount, static_cast<float>(r + 1));
    cusim::run({run, &call, {e.blocks, e.ranks, 1}, {kPeerThreads, 1, 1}, true});
  }
  size_t wrong = 0;
  const float sum = static_cast<float>(ranks * (ranks + 1) / 2);
  for (const auto& array : arrays)
    for (float v : array) wrong += v != sum;
  return wrong;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string bug = argc == 2 ? argv[1] : "";
  const Body body = body_of(bug);
  if (!body) return std::fprintf(stderr, "usage: gw_planted none|relaxed|no_barrier|out_of_bounds\n"), 2;
  size_t wrong = 0;
  if (bug != "none") {
    wrong = wrong_after(body, "direct", 2, nullptr);
  } else {
    for (const char* algorithm : {"one_shot", "direct", "ring", "double_tree"}) {
      wrong += wrong_after(body, algorithm, 3, nullptr);
      // sums of whole numbers that int8 holds exactly
      wrong += wrong_after(run_units<Coded<QuantRow<EvenGrid<8, false>>>, Signals>, algorithm, 3,
                           make_codec("int8"));
    }
  }
  std::printf("%s: %zu wrong values\n", bug.c_str(), wrong);
  return wrong != 0;
}
