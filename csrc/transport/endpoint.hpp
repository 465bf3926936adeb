// How ranks find one another, in two phases around one exchange of small strings through any Store:
//   Endpoint e(options);               // listens, creates shared memory
//   publish e.blob(); collect every rank's blob
//   auto transport = e.connect(blobs, deadline);   // per peer: shm inside a host, TCP across
// Host identity is read from the kernel (boot id, network and pid namespace), put into the blob, and compared; no
// environment variable is trusted for it.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/config.hpp"
#include "base/deadline.hpp"
#include "transport/transport.hpp"

namespace gw {

struct EndpointOptions {
  int rank = 0;
  int size = 1;
  uint32_t epoch = 0;
  std::string secret;  // shared by the job (from the store); a connection that does not know it is refused
  // Numeric IPv4 or IPv6 address to listen on and to give to peers. Several, separated by commas, the best first: this
  // rank listens everywhere, and a peer takes the first at which it answers.
  std::string address;
  Config config;
  // Called now and then while connect() waits, on its thread; may throw to end the wait (an interrupt, say).
  std::function<void()> idle = {};
};

class Endpoint {
 public:
  explicit Endpoint(EndpointOptions options);
  ~Endpoint();
  std::string blob() const;
  // Throws Error(rendezvous) naming the ranks that did not connect. May be called once.
  std::unique_ptr<Transport> connect(const std::vector<std::string>& blobs, Deadline deadline);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Ranks as threads of one process, with faults on demand.
class InprocHub {
 public:
  InprocHub(int size, size_t channel_bytes);
  ~InprocHub();
  // One per rank; thread-safe.
  std::unique_ptr<Transport> connect(int rank);

  // Faults act on messages from `src` to `dst`, control notices included, from now on.
  void delay(int src, int dst, double seconds);  // every message is seen this much later
  void drop(int src, int dst);                   // nothing arrives any more, and nobody is told
  void close(int rank);                          // as if the process of this rank had been killed

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace gw
