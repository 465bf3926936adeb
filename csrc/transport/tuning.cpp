#include "transport/tuning.hpp"

#include <linux/tcp.h>  // not netinet/tcp.h: its tcp_info ends before the shortest round trip
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>

#include "base/config.hpp"
#include "transport/file_descriptor.hpp"

namespace gw {
namespace {

constexpr double kShortPath_s = 1e-3;
constexpr double kAssumedBytesPerSecond = 10e9 / 8;
constexpr const char* kWindows = "/proc/sys/net/ipv4/tcp_wmem";

double largest_window() {
  double smallest = 0, usual = 0, largest = 0;
  std::ifstream file(kWindows);
  return file >> smallest >> usual >> largest && largest > 0 ? largest : 4 << 20;
}

bool set_congestion_control(int socket, const std::string& name) {
  return ::setsockopt(socket, IPPROTO_TCP, TCP_CONGESTION, name.data(),
                      static_cast<socklen_t>(name.size())) == 0;
}

}  // namespace

double round_trip_s(int socket) {
  tcp_info info{};
  socklen_t length = sizeof(info);
  if (::getsockopt(socket, IPPROTO_TCP, TCP_INFO, &info, &length) != 0) return 0;
  // An older kernel fills less of the structure and leaves zeros. ~0: nothing measured yet.
  const bool has_shortest = info.tcpi_min_rtt != 0 && info.tcpi_min_rtt != ~uint32_t{0};
  return 1e-6 * (has_shortest ? std::min(info.tcpi_min_rtt, info.tcpi_rtt) : info.tcpi_rtt);
}

int sockets_for(double round_trip_s) {
  const double windows = std::ceil(round_trip_s * kAssumedBytesPerSecond / largest_window());
  return static_cast<int>(std::clamp<double>(windows, 1, kMostSockets));
}

std::string congestion_control(int socket) {
  std::array<char, 32> name{};
  socklen_t length = name.size() - 1;
  if (::getsockopt(socket, IPPROTO_TCP, TCP_CONGESTION, name.data(), &length) != 0) return {};
  return name.data();
}

void choose_congestion_control(int socket, const std::string& wanted) {
  if (wanted == "system") return;
  if (wanted == "auto") {
    const std::string usual = congestion_control(socket);
    if ((usual.starts_with("bbr") || usual == "cubic") && round_trip_s(socket) < kShortPath_s)
      set_congestion_control(socket, "reno");  // always allowed; if not, the system's works as well
    return;
  }
  if (!set_congestion_control(socket, wanted))
    fail_system("choosing the congestion control '" + wanted +
                "' (GRADWIRE_CONGESTION; see /proc/sys/net/ipv4/tcp_allowed_congestion_control)");
}

void set_heartbeat(int socket, double seconds) {
  const int on = 1, pause = static_cast<int>(std::max(1.0, std::ceil(seconds / 3)));
  const auto limit = static_cast<unsigned>(seconds * 1000);
  const auto set = [socket](int level, int option, const auto& value) {
    if (::setsockopt(socket, level, option, &value, sizeof(value)) != 0) fail_system("setting a heartbeat");
  };
  set(SOL_SOCKET, SO_KEEPALIVE, on);
  set(IPPROTO_TCP, TCP_KEEPIDLE, pause);
  set(IPPROTO_TCP, TCP_KEEPINTVL, pause);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, limit);  // also what decides after how many probes to give up
}

}  // namespace gw
