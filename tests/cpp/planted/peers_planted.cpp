// gw_planted BUG: an all_reduce between ranks by the device's executor on the simulator, each block on an OS thread, with a bug
// planted: none, relaxed (a signal without release and acquire), no_barrier (a signal before the whole block is done) or
// out_of_bounds (a store behind an array). tools/sanitize.sh runs it: with none the sums are exact and no sanitizer speaks,
// with any other the sanitizer whose business it is does.
#include <cstdio>
#include <string>

#include "../peer_exchange.hpp"
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

// Ranks with the values rank + 1; the number of values that do not end as the sum.
size_t wrong_after(Body body, const char* algorithm, int ranks, const CodecPtr& codec) {
  PeerExchange exchange(algorithm, ranks, codec, 20001);
  struct Call {
    Body body;
    const gw_cuda_exchange* e;
  };
  const Call call{body, &exchange.call};
  constexpr auto run =
      +[](const void* c) { static_cast<const Call*>(c)->body(*static_cast<const Call*>(c)->e); };
  for (int repeat = 0; repeat < 2; ++repeat) {  // signals go on counting
    exchange.fill();
    cusim::run({run, &call, {exchange.call.blocks, exchange.call.ranks, 1}, {kPeerThreads, 1, 1}, true});
  }
  return exchange.wrong(exchange.sum());
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
