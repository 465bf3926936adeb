// One rank of a host whose ranks map one another's GPU memory: CUDA IPC between processes, plain pointers inside one. They
// reduce by the kernels that Peers runs. Only frames and signals are shared; arrays stay private, so a plain value that peers
// read is copied among the frames.
//
// The ranks make the same calls in the same order. Memory grows when a shape needs more; peers then have to hear of the new.
// The old stays, where they may still look at it.
#pragma once
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "comm/gpu_staging.hpp"
#include "comm/peer_programs.hpp"

namespace gw {

// Where a rank's memory is, for the others. Plain data, without padding.
struct PeerAddress {
  uint64_t process = 0;
  uint64_t number = 0;  // of this memory, among all that its process ever shared
  gw_cuda_handle frames{}, signals{};
};

class HostPeers {
 public:
  // `device` may differ between ranks. Throws Error(argument) for a size that peers cannot have.
  HostPeers(int device, int rank, int size);
  ~HostPeers();

  // Whether this shape can run in the memory there is: the same answer on all ranks. Throws Error(argument) for a bad call.
  bool ready(const View& array, const PeerCall& call);
  // Makes it ready: new memory, large enough for the shape last asked about. All peers have to connect again.
  void grow();
  // For the peers. Of before the first grow(): nothing.
  const PeerAddress& address() const { return mine_; }
  // Maps a peer's memory, if it is not mapped already. Throws Error(gpu) if this GPU cannot, Error(frame) for no such memory.
  void connect(int peer, const PeerAddress& address);

  // In place, on the array's stream, not waited for. seq: the step of random numbers.
  void all_reduce(const View& array, const PeerCall& call, uint64_t seq);
  // Waits for the stream. Throws Error(timeout) that names the rank waited for; this object is then of no more use.
  void synchronize(void* stream);

  // For who does not wait: a stream to reduce on, what its last all_reduce left, and an end to all waiting, for ever.
  void* stream() const { return staging_.stream(); }
  bool done();                                           // throws Error(gpu) if it failed
  const PeerFaults& faults() const { return *faults_; }  // when done
  void stop();

  int device() const { return programs_.device(); }
  int rank() const { return rank_; }
  int size() const { return programs_.ranks(); }
  uint64_t seq() { return seq_++; }

 private:
  struct Mapped {
    PeerAddress address;
    void *frames = nullptr, *signals = nullptr;
    bool opened = false;  // of another process
  };
  void close(Mapped& peer) noexcept;
  size_t signal_bytes() const { return peer_signal_bytes(rows_, stride_); }

  const int rank_;
  std::mutex mutex_;
  size_t wanted_frames_ = 0, frame_bytes_ = 0;
  uint32_t wanted_stride_ = 0, stride_ = 0, wanted_rows_ = 0, rows_ = 0;
  std::vector<std::unique_ptr<DeviceMemory>>
      memory_;  // mine: frames and signals in turn, the last two in use
  PeerAddress mine_;
  std::vector<Mapped> peers_;
  uint64_t seq_ = 0, mark_ = 0;
  GpuStaging staging_;  // waits for its stream before the memory goes
  uint32_t* stop_;      // pinned
  PeerFaults* faults_;  // pinned
  PeerPrograms programs_;
};

}  // namespace gw
