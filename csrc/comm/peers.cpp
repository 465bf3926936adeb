#include "comm/peers.hpp"

#include <algorithm>
#include <string>

#include "base/error.hpp"

namespace gw {
namespace {

// Everything put on `after` from now on comes after what is on `before`.
void order(int device, void* before, void* after) {
  if (before == after) return;
  gpu::Event moment(device);
  moment.record(before);
  moment.hold_back(after);
}

}  // namespace

Peers::Peers(int device, int ranks) : programs_(device, ranks, true) {}
Peers::~Peers() = default;

void Peers::all_reduce(const std::vector<View>& arrays, const PeerCall& call) {
  const std::lock_guard lock(mutex_);
  const auto e = prepare(arrays, call);
  if (!e) return;
  if (call.streams)
    launch_each(*e, arrays, call.silent);
  else
    launch_all(*e, arrays);
}

std::unique_ptr<gpu::Graph> Peers::record(const std::vector<View>& arrays, const PeerCall& call) {
  const std::lock_guard lock(mutex_);
  auto e = prepare(arrays, call);
  if (!e) fail_argument("there is nothing to record: one rank, or no elements");
  gpu::synchronize_device(device());
  const gpu::Stream stream(device());
  auto graph = std::make_unique<gpu::Graph>(stream);
  e->stream = stream.get();
  e->launched = e->ranks;
  gpu::exchange(*e);
  graph->finish();
  return graph;
}

std::optional<gw_cuda_exchange> Peers::prepare(const std::vector<View>& arrays, const PeerCall& call) {
  if (arrays.size() != static_cast<size_t>(size()))
    fail_argument("expected an array for each of the " + std::to_string(size()) + " ranks, got " +
                  std::to_string(arrays.size()));
  check_peer_call(arrays, call, device());
  const uint64_t seq = seq_++;
  const LoadedProgram* loaded = programs_.get(arrays[0], call);
  if (!loaded) return std::nullopt;
  make_room(loaded->program);
  gw_cuda_exchange e = programs_.exchange(*loaded, call, seq);
  e.stride = stride_;
  for (size_t r = 0; r < arrays.size(); ++r) {
    e.array[r] = arrays[r].data;
    e.frames[r] = reinterpret_cast<uint8_t*>(frames_[r]->get());
    e.signals[r] = reinterpret_cast<uint32_t*>(signals_[r]->get());
    if (!call.residuals.empty()) e.residual[r] = static_cast<float*>(call.residuals[r].data);
  }
  return e;
}

void Peers::launch_all(gw_cuda_exchange e, const std::vector<View>& arrays) {
  e.stream = arrays[0].stream;
  e.launched = e.ranks;
  for (const View& v : arrays) order(device(), v.stream, e.stream);
  gpu::exchange(e);
  for (const View& v : arrays) order(device(), e.stream, v.stream);
}

void Peers::launch_each(gw_cuda_exchange e, const std::vector<View>& arrays, const std::vector<int>& silent) {
  while (streams_.size() < arrays.size()) streams_.push_back(std::make_unique<gpu::Stream>(device()));
  e.launched = 1;
  // a rank's work may wait for any other's: first the order, then the launches, so that nothing stands between them
  for (size_t r = 0; r < arrays.size(); ++r)
    for (const View& v : arrays) order(device(), v.stream, streams_[r]->get());
  for (size_t r = 0; r < arrays.size(); ++r) {
    if (std::ranges::find(silent, static_cast<int>(r)) != silent.end()) continue;
    e.first_rank = static_cast<uint32_t>(r);
    e.stream = streams_[r]->get();
    gpu::exchange(e);
  }
  for (size_t r = 0; r < arrays.size(); ++r) order(device(), streams_[r]->get(), arrays[r].stream);
}

// Memory only grows, and at least doubles: a warm call allocates nothing. The old stays: graphs may hold on to it.
void Peers::make_room(const PeerProgram& p) {
  const auto replace = [&](std::vector<std::unique_ptr<DeviceMemory>>& memory, size_t bytes) {
    for (auto& m : memory) retired_.push_back(std::move(m));
    memory.clear();
    for (int r = 0; r < size(); ++r) memory.push_back(std::make_unique<DeviceMemory>(device(), bytes));
  };
  if (p.frame_bytes > frame_bytes_ || frames_.empty()) {
    frame_bytes_ = std::max({p.frame_bytes, 2 * frame_bytes_, size_t{64}});
    replace(frames_, frame_bytes_);
  }
  if (p.stride > stride_ || p.blocks > rows_) {
    stride_ = p.stride > stride_ ? std::max(p.stride, 2 * stride_) : stride_;
    rows_ = std::max(rows_, p.blocks);
    replace(signals_, signal_bytes());
    clear_signals();
  }
}

void Peers::clear_signals() {
  for (const auto& s : signals_) gpu::clear(device(), s->get(), signal_bytes(), nullptr);
  gpu::synchronize_device(device());
}

void Peers::synchronize(void* stream) {
  const std::lock_guard lock(mutex_);
  gpu::synchronize(device(), stream);
  for (const auto& s : streams_) gpu::synchronize(device(), s->get());
  std::vector<PeerFaults> faults(signals_.size());
  for (size_t r = 0; r < faults.size(); ++r)
    gpu::copy(device(), &faults[r], signals_[r]->get(), sizeof(PeerFaults), stream);
  try {
    check_faults(faults, seq_ - 1);
  } catch (...) {
    clear_signals();
    throw;
  }
}

}  // namespace gw
