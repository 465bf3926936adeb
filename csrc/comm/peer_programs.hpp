// Exchanges among ranks that read one another's memory, ready to launch: what a call asks for is checked, its program is made
// once and kept in device memory.
#pragma once
#include <array>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "base/view.hpp"
#include "comm/peer_program.hpp"
#include "cuda/gpu.hpp"

namespace gw {

// Memory of one device, released with its owner.
class DeviceMemory {
 public:
  DeviceMemory(int device, size_t bytes) : device_(device), data_(gpu::allocate(device, bytes)) {}
  ~DeviceMemory() { gpu::release(device_, data_); }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  std::byte* get() const { return static_cast<std::byte*>(data_); }

 private:
  int device_;
  void* data_;
};

struct PeerCall {
  ReduceOp op = ReduceOp::sum;
  CodecPtr codec;
  std::string algorithm;        // empty: auto
  std::vector<View> residuals;  // fp32, one for each array, or none: error feedback
  double timeout_s = 10;        // of the wait for one signal
  bool streams = false;         // Peers: a launch for each rank
  std::vector<int> silent{};    // Peers, with streams: ranks that are not launched, as if they had died
  Topology topology{};
};

// Throws Error(argument) unless the arrays and the call fit one another and the device.
void check_peer_call(const std::vector<View>& arrays, const PeerCall& call, int device);

struct LoadedProgram {
  Operation operation;
  std::string algorithm;
  Topology topology;
  PeerProgram program;
  std::unique_ptr<DeviceMemory> memory;  // units, places, begins
};

class PeerPrograms {
 public:
  // Throws Error(argument) unless there are 1 to GW_MOST_PEERS ranks. shared_arrays: peers can read the arrays. stream: that
  // programs come to the device by.
  PeerPrograms(int device, int ranks, bool shared_arrays, void* stream = nullptr);

  // Null if there is nothing to do: no elements, or one rank that owes nothing. A new one allocates and waits.
  const LoadedProgram* get(const View& array, const PeerCall& call);
  // All of an exchange but the ranks' memory, their rows, the stream and who is launched.
  gw_cuda_exchange exchange(const LoadedProgram& loaded, const PeerCall& call, uint64_t seq) const;
  int device() const { return device_; }
  int ranks() const { return ranks_; }

 private:
  LoadedProgram make(const Operation& operation, const std::string& algorithm,
                     const Topology& topology) const;

  const int device_, ranks_;
  const bool shared_arrays_;
  void* const stream_;
  std::list<LoadedProgram> loaded_;
};

// Of a rank: the head, and a row of `stride` words for each block.
constexpr size_t peer_signal_bytes(uint32_t rows, uint32_t stride) {
  return (GW_PEER_HEAD + size_t{rows} * stride) * sizeof(uint32_t);
}

// The words in front of the ranks' signals after an exchange, by rank (zeros where they are not known): throws Error(timeout)
// that names the culprit if a wait was in vain.
using PeerFaults = std::array<uint32_t, 1 + GW_MOST_PEERS>;
void check_faults(const std::vector<PeerFaults>& faults, uint64_t seq);

}  // namespace gw
