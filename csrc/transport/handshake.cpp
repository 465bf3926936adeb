#include "transport/handshake.hpp"

#include <cstring>

namespace gw {
namespace {
constexpr char kMagic[9] = "gradwire";
}

Hello Handshake::hello(const Blob& to, uint32_t lane, uint32_t socket, uint32_t kinds) const {
  Hello h{};
  std::memcpy(h.magic, kMagic, sizeof(h.magic));
  h.version = kHelloVersion;
  h.epoch = mine_.epoch;
  h.from = mine_.rank;
  h.to = to.rank;
  h.lane = lane;
  h.socket = socket;
  h.kinds = kinds;
  h.to_nonce = to.nonce;
  h.secret_bytes = static_cast<uint32_t>(secret_.size());
  std::memcpy(h.secret, secret_.data(), secret_.size());
  return h;
}

Hello Handshake::reply(const Pair& to, const Hello& asked) const {
  Hello h = hello(to.theirs, asked.lane, asked.socket, to.usable);
  h.reply = 1;
  h.sockets = static_cast<uint32_t>(to.sockets_per_lane);
  return h;
}

bool Handshake::genuine(const Hello& got) const {
  if (std::memcmp(got.magic, kMagic, sizeof(got.magic)) != 0 || got.version != kHelloVersion) return false;
  // Every byte is looked at, so that the time it takes tells nothing about where the first wrong one is.
  unsigned char expected[kMaxSecret] = {};
  std::memcpy(expected, secret_.data(), secret_.size());
  unsigned difference = got.secret_bytes ^ static_cast<uint32_t>(secret_.size());
  for (size_t i = 0; i < kMaxSecret; ++i) difference |= static_cast<unsigned>(expected[i] ^ got.secret[i]);
  if (difference) return false;
  return got.epoch == mine_.epoch && got.to == mine_.rank && got.to_nonce == mine_.nonce && got.from >= 0 &&
         got.from < mine_.size && got.from != mine_.rank;
}

}  // namespace gw
