#include "transport/blob.hpp"

#include <sys/random.h>

#include <charconv>
#include <map>

#include "base/error.hpp"
#include "transport/file_descriptor.hpp"

namespace gw {
namespace {

constexpr const char* kVersion = "gradwire-endpoint-1";
constexpr size_t kMaxBlob = 4096;

[[noreturn]] void bad(int rank, const std::string& what) {
  throw Error(ErrorKind::rendezvous,
              "what rank " + std::to_string(rank) + " put into the store is not usable: " + what +
                  "; do all ranks run the same version of gradwire?",
              {.peer = rank});
}

std::string hex(uint64_t v) {
  char text[17] = {};
  std::to_chars(text, text + 16, v, 16);
  return text;
}

template <class T>
T number(const std::map<std::string, std::string>& fields, const char* key, int rank, int base = 10) {
  const auto it = fields.find(key);
  if (it == fields.end()) bad(rank, std::string("no field '") + key + "'");
  const std::string& text = it->second;
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size())
    bad(rank, std::string(key) + " is '" + text + "', expected a number");
  return value;
}

template <class T>
void require_equal(const Blob& mine, const Blob& theirs, const char* what, const T& a, const T& b) {
  if (a == b) return;
  const auto text = [](const auto& v) {
    if constexpr (std::is_convertible_v<decltype(v), std::string>)
      return std::string(v);
    else
      return std::to_string(v);
  };
  throw Error(ErrorKind::rendezvous,
              std::string("all ranks must have the same ") + what + ": rank " + std::to_string(mine.rank) +
                  " has " + text(a) + ", rank " + std::to_string(theirs.rank) + " (" + theirs.host_name +
                  ") has " + text(b),
              {.rank = mine.rank, .peer = theirs.rank, .host = theirs.host_name});
}

}  // namespace

Nonce random_nonce() {
  Nonce nonce{};
  if (::getrandom(nonce.data(), sizeof(nonce), 0) != sizeof(nonce)) fail_system("getrandom");
  return nonce;
}

std::string to_text(const Blob& b) {
  std::string s = kVersion;
  const auto add = [&s](const char* key, const std::string& value) {
    s += std::string("\n") + key + "=" + value;
  };
  add("rank", std::to_string(b.rank));
  add("size", std::to_string(b.size));
  add("epoch", std::to_string(b.epoch));
  add("boot", b.host.boot_id);
  add("netns", b.host.network_namespace);
  add("pidns", b.host.pid_namespace);
  add("host", b.host_name);
  add("uid", std::to_string(b.uid));
  add("pid", std::to_string(b.pid));
  add("address", b.address);
  add("port", std::to_string(b.port));
  add("memory", std::to_string(b.memory_file));
  add("nonce0", hex(b.nonce[0]));
  add("nonce1", hex(b.nonce[1]));
  add("transport", b.transport);
  add("sockets", std::to_string(b.sockets));
  add("channel_bytes", std::to_string(b.channel_bytes));
  return s;
}

Blob parse_blob(const std::string& text, int rank) {
  if (text.size() > kMaxBlob) bad(rank, std::to_string(text.size()) + " bytes long");
  std::map<std::string, std::string> fields;
  size_t at = text.find('\n');
  if (text.substr(0, at) != kVersion) bad(rank, std::string("expected it to start with '") + kVersion + "'");
  while (at != std::string::npos) {
    const size_t end = text.find('\n', at + 1);
    const std::string line = text.substr(at + 1, end == std::string::npos ? end : end - at - 1);
    const size_t equals = line.find('=');
    if (equals == std::string::npos) bad(rank, "a line without '='");
    fields[line.substr(0, equals)] = line.substr(equals + 1);
    at = end;
  }
  Blob b;
  b.rank = number<int>(fields, "rank", rank);
  if (b.rank != rank) bad(rank, "it is that of rank " + std::to_string(b.rank));
  b.size = number<int>(fields, "size", rank);
  b.epoch = number<uint32_t>(fields, "epoch", rank);
  b.host = {fields["boot"], fields["netns"], fields["pidns"]};
  b.host_name = fields["host"];
  b.uid = number<int64_t>(fields, "uid", rank);
  b.pid = number<int64_t>(fields, "pid", rank);
  b.address = fields["address"];
  b.port = number<int>(fields, "port", rank);
  if (b.port < 1 || b.port > 65535) bad(rank, "port is " + std::to_string(b.port));
  b.memory_file = number<int>(fields, "memory", rank);
  b.nonce = {number<uint64_t>(fields, "nonce0", rank, 16), number<uint64_t>(fields, "nonce1", rank, 16)};
  b.transport = fields["transport"];
  b.sockets = number<int>(fields, "sockets", rank);
  b.channel_bytes = number<uint64_t>(fields, "channel_bytes", rank);
  return b;
}

void check_compatible(const Blob& mine, const Blob& theirs) {
  require_equal(mine, theirs, "number of ranks", mine.size, theirs.size);
  require_equal(mine, theirs, "epoch", mine.epoch, theirs.epoch);
  require_equal(mine, theirs, "GRADWIRE_CHANNEL_BYTES", mine.channel_bytes, theirs.channel_bytes);
  require_equal(mine, theirs, "GRADWIRE_SOCKETS", mine.sockets, theirs.sockets);
  require_equal(mine, theirs, "GRADWIRE_TRANSPORT", mine.transport, theirs.transport);
}

}  // namespace gw
