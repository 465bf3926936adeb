// One rank of a host whose ranks are processes: they map one another's memory (CUDA IPC) and reduce by the kernels that Peers
// runs. Only frames and signals are shared; arrays stay private, so a plain value that peers read is copied among the frames.
//
// The ranks make the same calls in the same order. Memory grows when a shape needs more, for which all of them meet:
//   if (!p.ready(x, call)) { all ranks: handle = p.grow(); exchange the handles; p.connect(handles); }
//   p.all_reduce(x, call);
#pragma once
#include <memory>
#include <mutex>
#include <vector>

#include "comm/peer_programs.hpp"

namespace gw {

class HostPeers {
 public:
  // `device` may differ between ranks. Throws Error(argument) for a size that peers cannot have.
  HostPeers(int device, int rank, int size);
  ~HostPeers();

  // Whether this shape can run in the memory there is: the same answer on all ranks. Throws Error(argument) for a bad call.
  bool ready(const View& array, const PeerCall& call);
  // New memory, large enough for the shape last asked about; peers' is let go. Nobody may be in an exchange: meet before.
  std::vector<gw_cuda_handle> grow();
  // grow's answers of all ranks, in rank order. Throws Error(gpu) if a GPU cannot map them.
  void connect(const std::vector<gw_cuda_handle>& handles);
  // In place, on the array's stream, not waited for.
  void all_reduce(const View& array, const PeerCall& call);
  // Waits for the stream. Throws Error(timeout) that names the rank waited for; this object is then of no more use.
  void synchronize(void* stream);
  int rank() const { return rank_; }
  int size() const { return programs_.ranks(); }

 private:
  void disconnect() noexcept;
  size_t signal_bytes() const { return peer_signal_bytes(rows_, stride_); }

  const int rank_;
  std::mutex mutex_;
  PeerPrograms programs_;
  size_t wanted_frames_ = 0, frame_bytes_ = 0;
  uint32_t wanted_stride_ = 0, stride_ = 0, wanted_rows_ = 0, rows_ = 0;
  std::unique_ptr<DeviceMemory> frames_, signals_;  // mine
  std::vector<void*> opened_;                       // frames and signals of each rank, null: mine
  uint64_t seq_ = 0;
};

}  // namespace gw
