// The device's executor: a block runs its units of a schedule in order. Each waits for the values it reads, which lie in the
// memory of the ranks that made them (nothing is pushed but signals), works on a piece of the array, and signals those who
// wait for it. Deadlock-free by the schedule's rounds (schedule/schedule.hpp) as long as all blocks run at once: sends do
// not wait, so a single queue in order of rounds suffices.
//
// A Worker has Shared, prepare(shared, e, rank) by all threads, and work(e, rank, unit, sources): called by all threads of
// the block, with the values it reads in order of ranks, null standing for this rank's own.
#pragma once
#include "cuda/memory.cuh"
#include "cuda/plugin.h"
#include "cuda/signals.cuh"

namespace gw::cuda {

inline constexpr uint32_t kPeerThreads = 256;

struct Sources {
  const uint8_t* at[GW_MOST_PEERS];  // null: this rank's own value
  uint32_t count;
};

template <class Worker>
struct PeerShared {
  Sources sources;
  uint32_t number;  // of this exchange
  uint32_t failed;
  typename Worker::Shared worker;
};

GW_DEVICE size_t width_of(uint32_t dtype) { return static_cast<DType>(dtype) == DType::f32 ? 4 : 2; }

GW_DEVICE void note_fault(uint32_t* head, uint32_t peer, uint32_t step) {
  atomicOr(head, 1u << peer);
  Signals::raise(head + 1 + peer, step);  // of several blocks any
}

// One thread of the block for each rank there may be, and one more.
template <class S>
GW_DEVICE bool wait_for(const gw_cuda_exchange& e, uint32_t rank, const gw_cuda_unit& u, const uint32_t* row,
                        uint32_t number, Sources& sources) {
  const gw_cuda_place* from = e.places + u.first_source;
  const bool takes_own = u.kind != GW_UNIT_RECV;
  if (threadIdx.x == u.sources && takes_own) {
    uint32_t before = 0;
    while (before < u.sources && from[before].rank < rank) ++before;
    sources.at[before] = nullptr;
    sources.count = u.sources + 1u;
  }
  if (threadIdx.x >= u.sources) return true;
  const gw_cuda_place p = from[threadIdx.x];
  const uint8_t* value = p.slot == GW_NO_PLACE
                             ? static_cast<const uint8_t*>(e.array[p.rank]) + u.at * width_of(e.dtype)
                             : e.frames[p.rank] + p.slot;
  sources.at[threadIdx.x + (takes_own && p.rank > rank ? 1u : 0u)] = value;
  if (!takes_own) sources.count = 1;
  if (await<S>(row + p.signal, number, e.limit_ns, e.stop)) return true;
  note_fault(e.signals[rank], p.rank, u.step + 1u);
  return false;
}

// Ranks whose kernels end apart must not touch what others still read.
template <class S>
GW_DEVICE bool leave_together(const gw_cuda_exchange& e, uint32_t rank, size_t at, uint32_t number) {
  const uint32_t peer = threadIdx.x;
  if (peer >= e.ranks || peer == rank) return true;
  S::raise(e.signals[peer] + at + 1 + rank, number);
  if (await<S>(e.signals[rank] + at + 1 + peer, number, e.limit_ns, e.stop)) return true;
  note_fault(e.signals[rank], peer, 0xffffu);
  return false;
}

template <class Worker, class S>
GW_DEVICE void run_units(const gw_cuda_exchange& e) {
  auto& shared = shared_memory<PeerShared<Worker>>();
  const uint32_t rank = e.first_rank + blockIdx.y, block = blockIdx.x;
  const size_t at = GW_PEER_HEAD + size_t{block} * e.stride;
  uint32_t* row = e.signals[rank] + at;
  if (threadIdx.x == 0) {
    shared.number = row[0] + 1;
    shared.failed = 0;
  }
  Worker worker(shared.worker, e, rank);
  __syncthreads();
  const uint32_t number = shared.number, *begin = e.begins + rank * e.blocks + block;
  for (uint32_t i = begin[0]; i < begin[1]; ++i) {
    const gw_cuda_unit u = e.units[i];
    if (u.kind != GW_UNIT_SIGNAL) {
      if (!wait_for<S>(e, rank, u, row, number, shared.sources)) shared.failed = 1;
      __syncthreads();
      if (shared.failed) return;
      worker.work(u, shared.sources);
    }
    S::gather();
    if (threadIdx.x < u.targets) {
      const gw_cuda_place p = e.places[u.first_target + threadIdx.x];
      S::raise(e.signals[p.rank] + at + p.signal, number);
    }
  }
  if (e.launched < e.ranks && !leave_together<S>(e, rank, at, number)) shared.failed = 1;
  __syncthreads();
  if (threadIdx.x == 0 && !shared.failed) row[0] = number;
}

// Between memory of any alignment, all threads together.
GW_DEVICE void copy_together(const uint8_t* from, uint8_t* to, size_t bytes) {
  size_t done = 0;
  if (aligned16(from) && aligned16(to)) {
    done = bytes / 16 * 16;
    for (size_t i = threadIdx.x * size_t{16}; i < done; i += kPeerThreads * size_t{16})
      *reinterpret_cast<uint4*>(to + i) = *reinterpret_cast<const uint4*>(from + i);
  } else if (!((reinterpret_cast<uintptr_t>(from) | reinterpret_cast<uintptr_t>(to)) & 3)) {
    done = bytes / 4 * 4;
    for (size_t i = threadIdx.x * size_t{4}; i < done; i += kPeerThreads * size_t{4})
      *reinterpret_cast<uint32_t*>(to + i) = *reinterpret_cast<const uint32_t*>(from + i);
  }
  for (size_t i = done + threadIdx.x; i < bytes; i += kPeerThreads) to[i] = from[i];
}

// Launches the exchange, or with `most` only says how many blocks of it run at once.
template <class Kernel>
int run_exchange(Kernel* kernel, const gw_cuda_exchange& e, int* most) {
  if (most) {
    int per_sm = 0, sms = 0;
    cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, e.device);
    const auto error =
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, kernel, static_cast<int>(kPeerThreads), 0);
    *most = per_sm * sms;
    return static_cast<int>(error);
  }
  return launch_together(kernel, {e.blocks, e.launched, 1}, kPeerThreads, static_cast<cudaStream_t>(e.stream),
                         e);
}

}  // namespace gw::cuda
