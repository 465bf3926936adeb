// The first bytes on every connection, in both directions: who speaks, to whom, about which connection, and the proof
// that it belongs to this job. Fixed size; nothing in it is believed before genuine() has compared it.
#pragma once
#include <cstdint>
#include <string>

#include "transport/pair.hpp"

namespace gw {

inline constexpr uint32_t kHelloVersion = 2;
inline constexpr uint32_t kControlLane = 0xffffffff;
inline constexpr size_t kMaxSecret = 64;

// Same-endian by construction: a peer of the other byte order fails the version check.
struct Hello {
  char magic[8];
  uint32_t version;
  uint32_t epoch;
  int32_t from, to;
  uint32_t reply;   // 0: the connecting side speaks; 1: the answer
  uint32_t lane;    // 0 .. kLanes-1, or kControlLane
  uint32_t socket;  // 0 .. sockets-1
  uint32_t kinds;   // transports the speaker can use with the other, see transports.def
  Nonce to_nonce;   // of the endpoint spoken to: a port that was reused by another job does not have it
  uint32_t secret_bytes;
  uint32_t sockets;  // per lane, in the reply to a control hello: the accepting side decides
  // In the clear: this keeps strangers and stray jobs out of a trusted network, not eavesdroppers.
  unsigned char secret[kMaxSecret];
};
static_assert(sizeof(Hello) == 128);

class Handshake {
 public:
  Handshake(const Blob& mine, std::string secret) : mine_(mine), secret_(std::move(secret)) {}

  Hello hello(const Blob& to, uint32_t lane, uint32_t socket, uint32_t kinds) const;
  Hello reply(const Pair& to, const Hello& asked) const;
  // From a rank of this job, in this epoch, to this very endpoint? Lane and socket are the caller's to check.
  bool genuine(const Hello& got) const;

 private:
  const Blob& mine_;
  std::string secret_;
};

}  // namespace gw
