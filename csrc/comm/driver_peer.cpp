#include "comm/driver_peer.hpp"

#include <algorithm>
#include <cstring>
#include <thread>

#include "base/error.hpp"

namespace gw {
namespace {

// What a kernel leaves of the operation's time for the question who is to blame.
Deadline::Duration time_for_questions(Deadline::Duration timeout) {
  return std::min<Deadline::Duration>(timeout / 2, std::chrono::seconds(2));
}

constexpr uint32_t kAtTheEnd = 0xffff;

}  // namespace

View PeerDriver::view(void* data, DType dtype) const {
  return {.data = data,
          .count = plan_.operation.count,
          .dtype = dtype,
          .device = call_.device,
          .stream = peers_->stream()};
}

PeerCall PeerDriver::peer_call() const {
  const Operation& op = plan_.operation;
  const auto left = call_.timeout - time_for_questions(call_.timeout) - (Deadline::Clock::now() - begun_);
  constexpr double kShortest = 1e-3;
  PeerCall call{.op = op.op,
                .codec = op.codec,
                .algorithm = std::string(op.algorithm),
                .residuals = {},
                .timeout_s = std::max(kShortest, std::chrono::duration<double>(left).count()),
                .topology = plan_.topology};
  if (arrays_.residual) call.residuals.push_back(view(arrays_.residual, DType::f32));
  return call;
}

void PeerDriver::begin(Staging& staging, uint64_t seq) {
  seq_ = seq;
  begun_ = Deadline::Clock::now();
  peers_ = &staging.peers(call_.device, plan_.rank, plan_.size);
  if (peers_->device() != call_.device)
    throw Error(ErrorKind::gpu, "the array is on GPU " + std::to_string(call_.device) +
                                    ", those before were on GPU " + std::to_string(peers_->device()) +
                                    ": with gpu_peers a rank keeps to one GPU");
  if (!peers_->ready(view(arrays_.out, plan_.operation.dtype), peer_call())) peers_->grow();
  call_.ready.hold_back(peers_->stream());
}

size_t PeerDriver::fill(const Unit&, size_t, std::byte* payload, CopyTuner*) {
  std::memcpy(payload, &peers_->address(), sizeof(PeerAddress));
  return sizeof(PeerAddress);
}

Taken PeerDriver::take(const Arrival& arrival) {
  for (uint32_t i = 0; i < arrival.unit.peers; ++i) {
    PeerAddress address;
    std::memcpy(&address, arrival.payloads[i].data, sizeof(address));
    peers_->connect(arrival.peers[i], address);
  }
  peers_->all_reduce(view(arrays_.out, plan_.operation.dtype), peer_call(), seq_);
  return Taken::yes;
}

bool PeerDriver::finish() {
  if (failed_ || !peers_->done()) return false;
  failed_ = peers_->faults()[0] != 0;
  return !failed_;
}

// The caller may let go of his arrays: a kernel that has begun ends within moments, one that has not touches nothing of them
// before it sees that it is to stop.
void PeerDriver::abandon() {
  if (!peers_) return;
  constexpr std::chrono::milliseconds kMoments{50}, kNap{1};
  peers_->stop();
  try {
    call_.finished.record(peers_->stream());
    for (const auto until = Deadline::after(kMoments); !peers_->done() && !until.passed();)
      std::this_thread::sleep_for(kNap);
  } catch (const Error&) {
    // a GPU that reports errors runs nothing any more
  }
}

std::vector<int> PeerDriver::missing() const {
  std::vector<int> ranks;
  for (int p = 0; failed_ && p < plan_.size; ++p)
    if (peers_->faults()[0] >> p & 1) ranks.push_back(p);
  return ranks;
}

int PeerDriver::missing_in_step() const {
  const std::vector<int> ranks = missing();
  if (ranks.empty()) return -1;
  const uint32_t word = peers_->faults()[1 + static_cast<size_t>(ranks[0])];
  return word == kAtTheEnd ? -1 : static_cast<int>(word) - 1;
}

}  // namespace gw
