// What the transport needs of a channel beyond what the executor sees. Every kind of channel implements this.
#pragma once
#include <vector>

#include "transport/transport.hpp"

namespace gw {

class LinkChannel : public Channel {
 public:
  // Moves bytes out of private buffers; true if any moved.
  virtual bool progress() { return false; }
  // Has the peer done anything since this side last looked? Asked while the doorbell says that this rank sleeps.
  virtual bool news() { return false; }
  // The peer's end is gone (what it sent before can still be read).
  virtual bool broken() const { return false; }
  // Sockets whose events end a sleep.
  virtual std::vector<int> sockets() const { return {}; }
};

}  // namespace gw
