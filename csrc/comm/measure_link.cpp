// Ping-pong for the latency, a burst of small messages for the cost of one, growing arrays for the cost of a byte; all with
// the communicator's own sends and receives, so that what is measured is what schedules pay.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#include "comm/communicator.hpp"

namespace gw {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kEnoughPings_s = 20e-3, kEnoughBytes_s = 40e-3;
constexpr int kWarmUp = 4, kMostPings = 100, kBurst = 64;
constexpr size_t kFirst = 64 << 10, kMost = 16 << 20;

class Line {
 public:
  Line(Communicator& c, int peer) : communicator_(c), peer_(peer) {}
  void send(void* data, size_t bytes) { move(Collective::send, data, bytes); }
  void recv(void* data, size_t bytes) { move(Collective::recv, data, bytes); }
  void tell(uint64_t number) { send(&number, sizeof(number)); }
  uint64_t hear() {
    uint64_t number = 0;
    recv(&number, sizeof(number));
    return number;
  }

 private:
  void move(Collective way, void* data, size_t bytes) {
    const View view{.data = data, .count = bytes, .dtype = DType::u8};
    CallOptions options;
    options.peer = peer_;
    Work work = communicator_.prepare(way, view, view, options);
    communicator_.engine().run(work);
  }
  Communicator& communicator_;
  const int peer_;
};

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

void follow(Line& line) {
  while (line.hear()) line.tell(1);
  line.tell(1);
  for (int i = 0; i < kBurst; ++i) line.hear();
  line.tell(1);
  std::vector<std::byte> bytes;
  while (const uint64_t size = line.hear()) {
    bytes.resize(std::min<uint64_t>(size, kMost));
    line.tell(1);
    line.recv(bytes.data(), bytes.size());
    line.tell(1);
  }
}

double round_trip(Line& line) {
  std::vector<double> seconds;
  const auto begin = Clock::now();
  for (int i = 0; i < kMostPings && (i < 2 * kWarmUp || since(begin) < kEnoughPings_s); ++i) {
    const auto start = Clock::now();
    line.tell(1);
    line.hear();
    if (i >= kWarmUp) seconds.push_back(since(start));
  }
  line.tell(0);
  line.hear();
  std::ranges::nth_element(seconds, seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2));
  return seconds[seconds.size() / 2];
}

double time_of(Line& line, std::vector<std::byte>& bytes, size_t size) {
  bytes.resize(size);
  line.tell(size);
  line.hear();
  const auto start = Clock::now();
  line.send(bytes.data(), size);
  line.hear();
  return since(start);
}

}  // namespace

LinkTimes measure_link(Communicator& communicator, int peer, bool leads) {
  Line line(communicator, peer);
  if (!leads) {
    follow(line);
    return {};
  }
  LinkTimes times;
  const double trip_s = round_trip(line);
  times.latency_s = trip_s / 2;

  const auto start = Clock::now();
  for (int i = 0; i < kBurst; ++i) line.tell(1);
  line.hear();
  times.message_s = std::max(0.0, since(start) - trip_s) / kBurst;

  // The slope between sizes: what fits into an idle token bucket or buffer is in both.
  std::vector<std::byte> bytes;
  double before_s = 0, now_s = 0;
  size_t size = kFirst / 4;
  do {
    size *= 4;
    before_s = now_s;
    now_s = time_of(line, bytes, size);
    now_s = std::min(now_s, time_of(line, bytes, size));
  } while (size < kMost && now_s < kEnoughBytes_s);
  line.tell(0);
  times.byte_s = before_s > 0 && now_s > before_s ? (now_s - before_s) / (static_cast<double>(size) * 0.75)
                                                  : now_s / static_cast<double>(size);
  return times;
}

}  // namespace gw
