// Ranks that are all on one GPU of this process, and all_reduce among them by the kernels that ranks on several GPUs run: a
// test bed for those, and their benchmark where there is one card. One launch runs all ranks (blockIdx.y is the rank), or
// each rank has a stream and a launch of its own.
#pragma once
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "comm/peer_programs.hpp"

namespace gw {

class Peers {
 public:
  Peers(int device, int ranks);  // throws Error(argument) unless 1 to GW_MOST_PEERS
  ~Peers();

  // In place on arrays[r] of rank r; put on arrays[0]'s stream, in order with those of the others, and not waited for.
  // The first call of a shape allocates and waits. Throws Error(argument) before anything is launched.
  void all_reduce(const std::vector<View>& arrays, const PeerCall& call);
  // The same, not done but recorded, for replays; in one launch. Arrays and residuals must outlive the graph.
  std::unique_ptr<gpu::Graph> record(const std::vector<View>& arrays, const PeerCall& call);
  // Waits for all that was put on the stream. Throws Error(timeout) that names the rank that did not answer.
  void synchronize(void* stream);
  int device() const { return programs_.device(); }
  int size() const { return programs_.ranks(); }
  uint64_t seq() const { return seq_; }  // of the next call: the step of its random numbers

 private:
  // Checked, with all but its stream and who is launched; none if there is nothing to do.
  std::optional<gw_cuda_exchange> prepare(const std::vector<View>& arrays, const PeerCall& call);
  void make_room(const PeerProgram& program);
  void launch_all(gw_cuda_exchange e, const std::vector<View>& arrays);
  void launch_each(gw_cuda_exchange e, const std::vector<View>& arrays, const std::vector<int>& silent);
  void clear_signals();
  size_t signal_bytes() const { return peer_signal_bytes(rows_, stride_); }

  std::mutex mutex_;
  PeerPrograms programs_;
  std::vector<std::unique_ptr<DeviceMemory>> frames_, signals_, retired_;
  std::vector<std::unique_ptr<gpu::Stream>> streams_;
  size_t frame_bytes_ = 0;
  uint32_t stride_ = 0, rows_ = 0;
  uint64_t seq_ = 0;
};

}  // namespace gw
