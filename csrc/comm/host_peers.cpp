#include "comm/host_peers.hpp"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <utility>

#include "base/deadline.hpp"
#include "base/error.hpp"
#include "transport/blob.hpp"

namespace gw {
namespace {

constexpr size_t kPage = 2 << 20;  // what a GPU maps at once: smaller pieces would share more than themselves
static_assert(sizeof(PeerAddress) == 2 * sizeof(uint64_t) + 2 * sizeof(gw_cuda_handle));

// What this process shares, by number: a handle cannot be opened by who made it.
class Shared {
 public:
  uint64_t add(void* frames, void* signals) {
    const std::lock_guard lock(mutex_);
    memory_[++last_] = {frames, signals};
    return last_;
  }
  void remove(uint64_t number) {
    const std::lock_guard lock(mutex_);
    memory_.erase(number);
  }
  std::pair<void*, void*> at(uint64_t number) {
    const std::lock_guard lock(mutex_);
    const auto found = memory_.find(number);
    if (found == memory_.end())
      throw Error(ErrorKind::frame, "a rank of this process names GPU memory that is not there");
    return found->second;
  }

 private:
  std::mutex mutex_;
  std::map<uint64_t, std::pair<void*, void*>> memory_;
  uint64_t last_ = 0;
};
Shared& shared() {
  static auto* all = new Shared;
  return *all;
}

// Not its number alone: processes of two containers of a host may have the same.
uint64_t this_process() {
  static const uint64_t drawn = random_nonce()[0];
  return drawn + static_cast<uint64_t>(::getpid());  // a child has drawn what its parent did
}

}  // namespace

HostPeers::HostPeers(int device, int rank, int size)
    : rank_(rank),
      peers_(static_cast<size_t>(std::max(size, 0))),
      staging_(device),
      stop_(reinterpret_cast<uint32_t*>(staging_.pinned(GpuStaging::kSends, sizeof(uint32_t)))),
      faults_(reinterpret_cast<PeerFaults*>(staging_.pinned(GpuStaging::kReceives, sizeof(PeerFaults)))),
      programs_(device, size, false, staging_.stream()) {
  if (rank < 0 || rank >= size)
    fail_argument("rank must be from 0 to " + std::to_string(size - 1) + ", got " + std::to_string(rank));
  *stop_ = 0;
  *faults_ = {};
}

// A kernel that was told to stop may begin only now: what it looks at has to be there until it ends.
HostPeers::~HostPeers() {
  constexpr std::chrono::microseconds kPatience{10'000'000}, kNap{200};
  try {
    for (const auto until = Deadline::after(kPatience); !done() && !until.passed();)
      std::this_thread::sleep_for(kNap);
  } catch (const Error&) {
    // a GPU that reports errors runs nothing any more
  }
  for (Mapped& peer : peers_) close(peer);
  shared().remove(mine_.number);
}

bool HostPeers::ready(const View& array, const PeerCall& call) {
  const std::lock_guard lock(mutex_);
  check_peer_call({array}, call, device());
  const LoadedProgram* loaded = programs_.get(array, call);
  if (!loaded) return true;
  const PeerProgram& p = loaded->program;
  if (p.frame_bytes > frame_bytes_) wanted_frames_ = std::max(p.frame_bytes, 2 * frame_bytes_);
  if (p.stride > stride_) wanted_stride_ = std::max(p.stride, 2 * stride_);
  wanted_rows_ = std::max(wanted_rows_, p.blocks);
  return !memory_.empty() && wanted_frames_ <= frame_bytes_ && wanted_stride_ <= stride_ &&
         wanted_rows_ <= rows_;
}

void HostPeers::grow() {
  const std::lock_guard lock(mutex_);
  frame_bytes_ = std::max({wanted_frames_, frame_bytes_, size_t{64}});
  stride_ = std::max(wanted_stride_, stride_);
  rows_ = std::max(wanted_rows_, rows_);
  const auto whole = [](size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; };
  auto frames = std::make_unique<DeviceMemory>(device(), whole(frame_bytes_));
  auto signals = std::make_unique<DeviceMemory>(device(), whole(signal_bytes()));
  // before any peer hears of it
  gpu::clear(device(), signals->get(), signal_bytes(), stream());
  gpu::synchronize(device(), stream());
  shared().remove(mine_.number);
  mine_ = {this_process(), shared().add(frames->get(), signals->get()), gpu::share(device(), frames->get()),
           gpu::share(device(), signals->get())};
  memory_.push_back(std::move(frames));
  memory_.push_back(std::move(signals));
}

void HostPeers::connect(int rank, const PeerAddress& address) {
  const std::lock_guard lock(mutex_);
  Mapped& peer = peers_.at(static_cast<size_t>(rank));
  if (std::memcmp(&peer.address, &address, sizeof(address)) == 0) return;
  close(peer);
  if (address.process == this_process()) {
    std::tie(peer.frames, peer.signals) = shared().at(address.number);
  } else {
    peer.opened = true;
    peer.frames = gpu::open_shared(device(), address.frames);
    peer.signals = gpu::open_shared(device(), address.signals);
  }
  peer.address = address;
}

void HostPeers::close(Mapped& peer) noexcept {
  for (void* p : {peer.frames, peer.signals})
    if (peer.opened && p) gpu::close_shared(device(), p);
  peer = {};
}

void HostPeers::all_reduce(const View& array, const PeerCall& call, uint64_t seq) {
  const std::lock_guard lock(mutex_);
  const LoadedProgram* loaded = programs_.get(array, call);
  if (!loaded) return;
  gw_cuda_exchange e = programs_.exchange(*loaded, call, seq);
  const auto me = static_cast<size_t>(rank_);
  for (size_t r = 0; r < peers_.size(); ++r) {
    if (r != me && !peers_[r].frames)
      fail_argument("the ranks have not exchanged addresses for an array of this size");
    e.frames[r] = static_cast<uint8_t*>(r == me ? memory_.end()[-2]->get() : peers_[r].frames);
    e.signals[r] =
        static_cast<uint32_t*>(r == me ? static_cast<void*>(memory_.back()->get()) : peers_[r].signals);
  }
  e.array[me] = array.data;
  if (!call.residuals.empty()) e.residual[me] = static_cast<float*>(call.residuals[0].data);
  e.stride = stride_;
  e.first_rank = static_cast<uint32_t>(rank_);
  e.launched = 1;
  e.stream = array.stream;
  e.stop = stop_;
  gpu::exchange(e);
  if (array.stream != stream()) return;
  gpu::copy_later(device(), faults_, memory_.back()->get(), sizeof(PeerFaults), stream());
  mark_ = staging_.mark();
}

bool HostPeers::done() { return staging_.passed(mark_); }

void HostPeers::stop() { std::atomic_ref(*stop_).store(1, std::memory_order_release); }

void HostPeers::synchronize(void* stream) {
  const std::lock_guard lock(mutex_);
  gpu::synchronize(device(), stream);
  if (memory_.empty()) return;
  std::vector<PeerFaults> faults(peers_.size());
  gpu::copy(device(), &faults[static_cast<size_t>(rank_)], memory_.back()->get(), sizeof(PeerFaults), stream);
  check_faults(faults, seq_ - 1);
}

}  // namespace gw
