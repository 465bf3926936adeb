#include "base/config.hpp"

#include <bit>
#include <cstdlib>

#include "base/error.hpp"

namespace gw {
namespace {

double number(const char* name, double fallback) {
  const char* text = std::getenv(name);
  if (!text || !*text) return fallback;
  char* end = nullptr;
  const double v = std::strtod(text, &end);
  if (*end) fail_argument(std::string(name) + ": expected a number, got '" + text + "'");
  return v;
}

std::string word(const char* name, const std::string& fallback) {
  const char* text = std::getenv(name);
  return text && *text ? text : fallback;
}

bool is_on(const char* name, bool fallback) {
  const std::string text = word(name, fallback ? "on" : "off");
  if (text != "on" && text != "off")
    fail_argument(std::string(name) + ": expected on or off, got '" + text + "'");
  return text == "on";
}

void require(bool ok, const char* name, const std::string& expected, const std::string& got) {
  if (!ok) fail_argument(std::string(name) + ": expected " + expected + ", got " + got);
}

}  // namespace

Config Config::from_env() {
  Config c;
  c.timeout_s = number("GRADWIRE_TIMEOUT_S", c.timeout_s);
  c.transport = word("GRADWIRE_TRANSPORT", c.transport);
  c.sockets = static_cast<int>(number("GRADWIRE_SOCKETS", c.sockets));
  c.congestion = word("GRADWIRE_CONGESTION", c.congestion);
  c.heartbeat_s = number("GRADWIRE_HEARTBEAT_S", c.heartbeat_s);
  c.channel_bytes =
      static_cast<size_t>(number("GRADWIRE_CHANNEL_BYTES", static_cast<double>(c.channel_bytes)));
  c.segment_bytes =
      static_cast<size_t>(number("GRADWIRE_SEGMENT_BYTES", static_cast<double>(c.segment_bytes)));
  c.spin_us = number("GRADWIRE_SPIN_US", c.spin_us);
  c.ifname = word("GRADWIRE_IFNAME", c.ifname);
  c.topology = word("GRADWIRE_TOPOLOGY", c.topology);
  c.deterministic = word("GRADWIRE_DETERMINISTIC", c.deterministic);
  c.gpu = word("GRADWIRE_GPU", c.gpu);
  c.gpu_peers = is_on("GRADWIRE_GPU_PEERS", c.gpu_peers);
  c.check();
  return c;
}

void Config::check() const {
  require(timeout_s > 0, "GRADWIRE_TIMEOUT_S", "a positive number of seconds", std::to_string(timeout_s));
  require(transport == "auto" || transport == "shm" || transport == "tcp", "GRADWIRE_TRANSPORT",
          "auto, shm or tcp", "'" + transport + "'");
  require(deterministic == "run" || deterministic == "size-invariant", "GRADWIRE_DETERMINISTIC",
          "run or size-invariant", "'" + deterministic + "'");
  require(gpu == "auto" || gpu == "off" || gpu == "sim", "GRADWIRE_GPU", "auto, off or sim", "'" + gpu + "'");
  require(sockets >= 0 && sockets <= kMostSockets, "GRADWIRE_SOCKETS",
          "1 to " + std::to_string(kMostSockets) + ", or 0 for as many as the path asks for",
          std::to_string(sockets));
  require(std::has_single_bit(channel_bytes) && channel_bytes >= kSmallestChannel &&
              channel_bytes <= (size_t{1} << 30),
          "GRADWIRE_CHANNEL_BYTES", "a power of two from 64 KiB to 1 GiB", std::to_string(channel_bytes));
  require(segment_bytes == 0 || (segment_bytes >= 4096 && segment_bytes <= channel_bytes / 4),
          "GRADWIRE_SEGMENT_BYTES",
          "4096 to a quarter of GRADWIRE_CHANNEL_BYTES, or 0 for what the path asks for",
          std::to_string(segment_bytes));
  require(heartbeat_s == 0 || (heartbeat_s >= 1 && heartbeat_s <= 3600), "GRADWIRE_HEARTBEAT_S",
          "1 to 3600 seconds, or 0 for none", std::to_string(heartbeat_s));
  require(spin_us >= 0 && spin_us <= 1e6, "GRADWIRE_SPIN_US", "0 to 1e6", std::to_string(spin_us));
}

}  // namespace gw
