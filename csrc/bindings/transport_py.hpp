// A Transport on its way from an Endpoint or a hub into a Communicator: Python only carries it.
#pragma once
#include <memory>

#include "transport/transport.hpp"

namespace gw {

struct PyTransport {
  std::unique_ptr<Transport> transport;  // null once a Communicator has taken it
};

}  // namespace gw
