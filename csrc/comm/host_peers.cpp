#include "comm/host_peers.hpp"

#include <algorithm>
#include <string>

#include "base/error.hpp"

namespace gw {
namespace {
constexpr size_t kPage = 2 << 20;  // what a GPU maps at once: smaller pieces would share more than themselves
}

HostPeers::HostPeers(int device, int rank, int size) : rank_(rank), programs_(device, size, false) {
  if (rank < 0 || rank >= size)
    fail_argument("rank must be from 0 to " + std::to_string(size - 1) + ", got " + std::to_string(rank));
}
HostPeers::~HostPeers() { disconnect(); }

bool HostPeers::ready(const View& array, const PeerCall& call) {
  const std::lock_guard lock(mutex_);
  check_peer_call({array}, call, programs_.device());
  const LoadedProgram* loaded = programs_.get(array, call);
  if (!loaded) return true;
  const PeerProgram& p = loaded->program;
  if (p.frame_bytes > frame_bytes_) wanted_frames_ = std::max(p.frame_bytes, 2 * frame_bytes_);
  if (p.stride > stride_) wanted_stride_ = std::max(p.stride, 2 * stride_);
  wanted_rows_ = std::max(wanted_rows_, p.blocks);
  return !opened_.empty() && wanted_frames_ <= frame_bytes_ && wanted_stride_ <= stride_ &&
         wanted_rows_ <= rows_;
}

std::vector<gw_cuda_handle> HostPeers::grow() {
  const std::lock_guard lock(mutex_);
  const int device = programs_.device();
  gpu::synchronize_device(device);
  disconnect();
  frame_bytes_ = std::max({wanted_frames_, frame_bytes_, size_t{64}});
  stride_ = std::max(wanted_stride_, stride_);
  rows_ = std::max(wanted_rows_, rows_);
  const auto whole = [](size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; };
  frames_ = std::make_unique<DeviceMemory>(device, whole(frame_bytes_));
  signals_ = std::make_unique<DeviceMemory>(device, whole(signal_bytes()));
  gpu::clear(device, signals_->get(), signal_bytes(), nullptr);
  gpu::synchronize_device(device);
  return {gpu::share(device, frames_->get()), gpu::share(device, signals_->get())};
}

void HostPeers::connect(const std::vector<gw_cuda_handle>& handles) {
  const std::lock_guard lock(mutex_);
  if (handles.size() != 2 * static_cast<size_t>(size()))
    fail_argument("expected two handles from each of the " + std::to_string(size()) + " ranks, got " +
                  std::to_string(handles.size()));
  for (size_t i = 0; i < handles.size(); ++i)
    opened_.push_back(static_cast<int>(i / 2) == rank_ ? nullptr
                                                       : gpu::open_shared(programs_.device(), handles[i]));
}

void HostPeers::disconnect() noexcept {
  for (void* p : opened_)
    if (p) gpu::close_shared(programs_.device(), p);
  opened_.clear();
}

void HostPeers::all_reduce(const View& array, const PeerCall& call) {
  const std::lock_guard lock(mutex_);
  const uint64_t seq = seq_++;
  const LoadedProgram* loaded = programs_.get(array, call);
  if (!loaded) return;
  if (opened_.empty()) fail_argument("the ranks have not exchanged handles for an array of this size");
  gw_cuda_exchange e = programs_.exchange(*loaded, call, seq);
  const auto me = static_cast<size_t>(rank_);
  for (size_t r = 0; r < static_cast<size_t>(size()); ++r) {
    e.frames[r] = static_cast<uint8_t*>(r == me ? frames_->get() : opened_[2 * r]);
    e.signals[r] = static_cast<uint32_t*>(r == me ? static_cast<void*>(signals_->get()) : opened_[2 * r + 1]);
  }
  e.array[me] = array.data;
  if (!call.residuals.empty()) e.residual[me] = static_cast<float*>(call.residuals[0].data);
  e.stride = stride_;
  e.first_rank = static_cast<uint32_t>(rank_);
  e.launched = 1;
  e.stream = array.stream;
  gpu::exchange(e);
}

void HostPeers::synchronize(void* stream) {
  const std::lock_guard lock(mutex_);
  gpu::synchronize(programs_.device(), stream);
  if (!signals_) return;
  std::vector<PeerFaults> faults(static_cast<size_t>(size()));
  gpu::copy(programs_.device(), &faults[static_cast<size_t>(rank_)], signals_->get(), sizeof(PeerFaults),
            stream);
  check_faults(faults, seq_ - 1);
}

}  // namespace gw
