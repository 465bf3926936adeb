#include "comm/peer_programs.hpp"

#include <algorithm>
#include <cstring>

#include "base/error.hpp"
#include "comm/peer_choice.hpp"

namespace gw {
namespace {

constexpr size_t kMostPrograms = 256;
constexpr uint32_t kMostBlocks = 36;  // of a rank: more do not make NVLink faster (public kernels)

std::string sized(const View& v) { return std::string(name(v.dtype)) + "[" + std::to_string(v.count) + "]"; }

template <class T>
size_t bytes_of(const std::vector<T>& v) {
  return v.size() * sizeof(T);
}

}  // namespace

void check_peer_call(const std::vector<View>& arrays, const PeerCall& call, int device) {
  const View& first = arrays[0];
  if (first.dtype != DType::f32 && first.dtype != DType::bf16 && first.dtype != DType::f16)
    fail_argument("on a GPU ranks reduce float32, bfloat16 and float16, got " +
                  std::string(name(first.dtype)));
  for (size_t r = 0; r < arrays.size(); ++r) {
    if (arrays[r].device != device)
      fail_argument("the array of rank " + std::to_string(r) + " must be in the memory of GPU " +
                    std::to_string(device));
    if (arrays[r].dtype != first.dtype || arrays[r].count != first.count)
      fail_argument("ranks must bring arrays of one dtype and count: rank 0 has " + sized(first) + ", rank " +
                    std::to_string(r) + " has " + sized(arrays[r]));
  }
  const bool lossy = call.codec && call.codec->lossy();
  if (lossy && call.op != ReduceOp::sum && call.op != ReduceOp::avg)
    fail_argument("codec " + call.codec->description() +
                  " is lossy and works on sums and averages, got op '" + std::string(name(call.op)) +
                  "': pass codec=None");
  if (!(call.timeout_s > 0))
    fail_argument("timeout must be positive seconds, got " + std::to_string(call.timeout_s));
  if (call.residuals.empty()) return;
  if (!lossy) fail_argument("residuals need a lossy codec: without one nothing is lost");
  if (call.residuals.size() != arrays.size())
    fail_argument("expected a residual for each of the " + std::to_string(arrays.size()) + " ranks, got " +
                  std::to_string(call.residuals.size()));
  for (const View& r : call.residuals)
    if (r.dtype != DType::f32 || r.count != first.count || r.device != device)
      fail_argument("each residual must be float32[" + std::to_string(first.count) + "] on GPU " +
                    std::to_string(device) + " like the array, got " + sized(r));
}

PeerPrograms::PeerPrograms(int device, int ranks, bool shared_arrays, void* stream)
    : device_(device), ranks_(ranks), shared_arrays_(shared_arrays), stream_(stream) {
  if (ranks < 1 || ranks > GW_MOST_PEERS)
    fail_argument("ranks that read one another's memory number 1 to " + std::to_string(GW_MOST_PEERS) +
                  ", got " + std::to_string(ranks));
}

const LoadedProgram* PeerPrograms::get(const View& array, const PeerCall& call) {
  const bool sums = call.op == ReduceOp::sum || call.op == ReduceOp::avg;
  const Operation operation{.op = call.op,
                            .dtype = array.dtype,
                            .count = array.count,
                            .codec = sums ? call.codec : nullptr,
                            .algorithm = {},
                            .with_residual = !call.residuals.empty()};
  const std::string algorithm =
      call.algorithm.empty() ? peer_algorithm(array.bytes(), one_shot_below(ranks_)) : call.algorithm;
  if (operation.count == 0 || (ranks_ == 1 && !operation.with_residual)) return nullptr;
  for (const LoadedProgram& l : loaded_)
    if (l.operation == operation && l.algorithm == algorithm && l.topology == call.topology) return &l;
  LoadedProgram fresh = make(operation, algorithm, call.topology);
  if (loaded_.size() >= kMostPrograms) {
    gpu::synchronize_device(device_);  // some launch may still read the one that goes
    loaded_.pop_front();
  }
  loaded_.push_back(std::move(fresh));
  return &loaded_.back();
}

LoadedProgram PeerPrograms::make(const Operation& operation, const std::string& algorithm,
                                 const Topology& topology) const {
  gw_cuda_exchange question{};
  gpu::describe(operation.codec.get(), question);
  question.dtype = static_cast<uint32_t>(operation.dtype);
  question.device = device_;
  // ranks may all be on this GPU
  const auto together = static_cast<uint32_t>(gpu::most_blocks(question)) / static_cast<uint32_t>(ranks_);
  if (together == 0) fail_argument("the GPU cannot run " + std::to_string(ranks_) + " ranks at once");
  LoadedProgram fresh{operation, algorithm, topology,
                      make_peer_program(operation, algorithm,
                                        {.ranks = ranks_,
                                         .most_blocks = std::min(kMostBlocks, together),
                                         .shared_arrays = shared_arrays_,
                                         .topology = topology}),
                      nullptr};
  const PeerProgram& p = fresh.program;
  std::vector<std::byte> all(bytes_of(p.units) + bytes_of(p.places) + bytes_of(p.begins));
  std::byte* to = all.data();
  const auto put = [&](const auto& v) {
    if (!v.empty()) std::memcpy(to, v.data(), bytes_of(v));
    to += bytes_of(v);
  };
  put(p.units);
  put(p.places);
  put(p.begins);
  fresh.memory = std::make_unique<DeviceMemory>(device_, all.size());
  gpu::copy(device_, fresh.memory->get(), all.data(), all.size(), stream_);
  return fresh;
}

gw_cuda_exchange PeerPrograms::exchange(const LoadedProgram& loaded, const PeerCall& call,
                                        uint64_t seq) const {
  const PeerProgram& p = loaded.program;
  const Operation& operation = loaded.operation;
  const std::byte* memory = loaded.memory->get();
  gw_cuda_exchange e{};
  e.units = reinterpret_cast<const gw_cuda_unit*>(memory);
  e.places = reinterpret_cast<const gw_cuda_place*>(memory + bytes_of(p.units));
  e.begins = reinterpret_cast<const uint32_t*>(memory + bytes_of(p.units) + bytes_of(p.places));
  gpu::describe(operation.codec.get(), e);
  e.step = seq;
  e.limit_ns = static_cast<uint64_t>(call.timeout_s * 1e9);
  e.blocks = p.blocks;
  e.ranks = static_cast<uint32_t>(ranks_);
  e.dtype = static_cast<uint32_t>(operation.dtype);
  e.op = static_cast<uint32_t>(operation.op == ReduceOp::avg ? ReduceOp::sum : operation.op);
  e.scale = static_cast<float>(operation.op == ReduceOp::avg ? 1.0 / ranks_ : 1.0);
  e.device = device_;
  return e;
}

void check_faults(const std::vector<PeerFaults>& faults, uint64_t seq) {
  // Of ranks that wait for one another the culprit is one that does not wait itself.
  int rank = -1, culprit = -1;
  for (size_t r = 0; r < faults.size(); ++r)
    for (size_t p = 0; p < faults.size(); ++p)
      if ((faults[r][0] >> p & 1) &&
          (culprit < 0 || (!faults[p][0] && faults[static_cast<size_t>(culprit)][0])))
        rank = static_cast<int>(r), culprit = static_cast<int>(p);
  if (culprit < 0) return;
  const uint32_t word = faults[static_cast<size_t>(rank)][1 + static_cast<size_t>(culprit)];
  const int step = static_cast<int>(word) - 1;
  const bool at_end = word == 0xffff;
  throw Error(ErrorKind::timeout,
              "all_reduce on the GPU: rank " + std::to_string(rank) + " waited in vain for rank " +
                  std::to_string(culprit) + (at_end ? " at the end" : " in step " + std::to_string(step)) +
                  "; the arrays hold partial results",
              {.rank = rank, .peer = culprit, .op = "all_reduce", .seq = seq, .step = at_end ? -1 : step});
}

}  // namespace gw
