// What a rank tells the others about itself through the store: where it listens, which host it is on, and where its
// shared memory is. Text, so that a person can read the store.
#pragma once
#include <array>
#include <cstdint>
#include <string>

#include "transport/host_identity.hpp"

namespace gw {

using Nonce = std::array<uint64_t, 2>;
Nonce random_nonce();  // from the kernel; throws Error(rendezvous)

struct Blob {
  int rank = -1;
  int size = 0;
  uint32_t epoch = 0;
  HostIdentity host;
  std::string host_name;
  int64_t uid = -1;
  int64_t pid = -1;
  std::string address;  // numeric
  int port = 0;
  int memory_file = -1;  // descriptor number in process `pid`; -1: no shared memory
  Nonce nonce{};         // also the first bytes of the shared memory
  // Settings that both ends of a channel must share.
  std::string transport;
  int sockets = 0;
  uint64_t channel_bytes = 0;

  bool operator==(const Blob&) const = default;
};

std::string to_text(const Blob& blob);
// Throws Error(rendezvous) that says what is wrong with the blob of `rank`.
Blob parse_blob(const std::string& text, int rank);
// Throws Error(rendezvous) if `theirs` does not belong to the job of `mine` or was made with other settings.
void check_compatible(const Blob& mine, const Blob& theirs);

}  // namespace gw
