#include "comm/notice.hpp"

#include <algorithm>
#include <cstring>

namespace gw {
namespace {

// Both ends are the same build on the same byte order (the handshake sees to that), so a plain struct is the format.
struct Wire {
  char magic[4];
  uint8_t type, kind, pad[2];
  uint32_t epoch, nonce;
  uint64_t seq, error_seq;
  int32_t waiting_for, rank, peer, step;
  char op[24];
  char host[64];
  char text[376];
};
static_assert(sizeof(Wire) == ControlMessage::kBytes);
constexpr char kMagic[4] = {'G', 'W', 'N', '1'};

template <size_t N>
void put(char (&field)[N], const std::string& s) {
  const size_t n = std::min(s.size(), N - 1);
  std::memcpy(field, s.data(), n);
  field[n] = 0;
}
template <size_t N>
std::string get(const char (&field)[N]) {
  return std::string(field, strnlen(field, N));
}

}  // namespace

ControlMessage pack(const Notice& n) {
  Wire w{};
  std::memcpy(w.magic, kMagic, sizeof kMagic);
  w.type = static_cast<uint8_t>(n.type);
  w.kind = static_cast<uint8_t>(n.kind);
  w.epoch = n.epoch;
  w.nonce = n.nonce;
  w.seq = n.seq;
  w.error_seq = n.context.seq;
  w.waiting_for = n.waiting_for;
  w.rank = n.context.rank;
  w.peer = n.context.peer;
  w.step = n.context.step;
  put(w.op, n.context.op);
  put(w.host, n.context.host);
  put(w.text, n.text);
  ControlMessage m;
  std::memcpy(m.bytes.data(), &w, sizeof w);
  return m;
}

std::optional<Notice> unpack(const ControlMessage& m) {
  Wire w;
  std::memcpy(&w, m.bytes.data(), sizeof w);
  if (std::memcmp(w.magic, kMagic, sizeof kMagic) != 0) return std::nullopt;
  if (w.type < 1 || w.type > 3) return std::nullopt;
  if (w.kind < 1 || w.kind > static_cast<uint8_t>(kLastErrorKind)) return std::nullopt;
  Notice n;
  n.type = static_cast<NoticeType>(w.type);
  n.kind = static_cast<ErrorKind>(w.kind);
  n.epoch = w.epoch;
  n.nonce = w.nonce;
  n.seq = w.seq;
  n.waiting_for = w.waiting_for;
  n.context = {w.rank, w.peer, get(w.host), get(w.op), w.error_seq, w.step};
  n.text = get(w.text);
  return n;
}

}  // namespace gw
