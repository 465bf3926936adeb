// A group of ranks that call the same operations in the same order. Checks arguments, chooses the algorithm, keeps
// the plans, and hands the work to the engine. Thread-safe, but the order of calls must be the same on all ranks.
#pragma once
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/config.hpp"
#include "base/view.hpp"
#include "comm/costs.hpp"
#include "comm/engine.hpp"
#include "schedule/select.hpp"

namespace gw {

// What an operation takes besides its arrays.
struct CallOptions {
  ReduceOp op = ReduceOp::sum;
  CodecPtr codec;
  std::string_view algorithm;    // empty: auto
  std::optional<View> residual;  // fp32; error feedback: added first, then overwritten with what was lost
  int peer = -1;                 // broadcast: root; send, recv: the other rank
  uint32_t tag = 0;
  std::optional<double> timeout_s{};
};

class Communicator {
 public:
  Communicator(std::unique_ptr<Transport> transport, uint32_t epoch, const Config& config);

  int rank() const { return rank_; }
  int size() const { return size_; }
  uint32_t epoch() const { return epoch_; }

  // Makes the Work of one call; throws Error(argument) before anything is sent. `in` and `out` are the same array for
  // operations in place. Give the result to engine().run() or engine().submit().
  // Arrays on a GPU are read after what was put on their streams before, and written before what is put there once the
  // Work is done (run() and Work::order see to that).
  Work prepare(Collective collective, const View& in, const View& out, const CallOptions& options);
  std::shared_ptr<Work> prepare_shared(Collective collective, const View& in, const View& out,
                                       const CallOptions& options);

  // engine().run(), after which the streams of arrays on a GPU wait for the operation.
  void run(Work& work);

  Choice choose(Collective collective, size_t count, DType dtype, const CodecPtr& codec) const;
  Engine& engine() { return engine_; }
  const Config& config() const { return config_; }
  const Topology& topology() const { return topology_; }
  const Costs& costs() const { return costs_; }
  // Every rank must set the same, between the same two collectives; throw Error(argument).
  void set_topology(Topology topology);
  void set_costs(Costs costs);
  // The same, for all_reduces of arrays on GPUs: where the kernels for it are there, they go through GPU memory that ranks map
  // (driver_peer.hpp). All ranks are on one host, have GPUs of one kind, and bring arrays on GPUs if one does.
  // one_shot_below: bytes of an array for which "auto" takes one_shot.
  void use_gpu_peers(size_t one_shot_below);

 private:
  struct Prepared {
    std::shared_ptr<const Plan> plan;
    Buffers buffers;
    Deadline::Duration timeout;
  };
  Prepared check_and_plan(Collective collective, const View& in, const View& out, const CallOptions& options);
  size_t checked_count(Collective collective, const View& in, const View& out) const;
  static bool goes_coded(DType dtype, const CallOptions& options);
  void check_reduction(Collective collective, DType dtype, const CallOptions& options) const;
  std::shared_ptr<const Plan> plan_for(Operation operation, std::string_view algorithm, int device);
  void forget_plans();
  std::string peers_choice(const Operation& operation) const;
  void check_size_invariant(const Operation& operation, const Schedule& schedule) const;

  const int rank_, size_;
  const uint32_t epoch_;
  const Config config_;
  Costs costs_;
  const PlanSettings settings_;  // but for the topology's hash
  Topology topology_;
  uint32_t topology_hash_ = 0;
  std::optional<size_t> one_shot_below_;  // set: GPU arrays go through peer memory
  Engine engine_;

  struct Key {
    Operation operation;
    std::string_view asked;  // as called: "" for auto
    bool by_peers = false;   // where that is possible
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    size_t operator()(const Key& k) const;
  };
  std::mutex plans_mutex_;
  std::unordered_map<Key, std::shared_ptr<const Plan>, KeyHash> plans_;
  std::optional<std::pair<const Key*, std::shared_ptr<const Plan>>> last_;  // the key lies in plans_
};

}  // namespace gw
