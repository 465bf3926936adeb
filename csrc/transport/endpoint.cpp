#include "transport/endpoint.hpp"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.hpp"
#include "base/log.hpp"
#include "transport/address.hpp"
#include "transport/per_peer.hpp"
#include "transport/rendezvous.hpp"

namespace gw {
namespace {

void check(const EndpointOptions& o) {
  if (o.size < 1) fail_argument("size: expected at least 1, got " + std::to_string(o.size));
  if (o.rank < 0 || o.rank >= o.size)
    fail_argument("rank: expected 0 to " + std::to_string(o.size - 1) + ", got " + std::to_string(o.rank));
  if (o.secret.empty() || o.secret.size() > kMaxSecret)
    fail_argument("secret: expected 1 to " + std::to_string(kMaxSecret) + " bytes, got " +
                  std::to_string(o.secret.size()));
  o.config.check();
}

int port_of(int socket) {
  SocketAddress own;
  own.length = sizeof(own.storage);
  if (::getsockname(socket, own.get(), &own.length) != 0) fail_system("getsockname");
  return ntohs(own.family() == AF_INET6 ? reinterpret_cast<const sockaddr_in6*>(&own.storage)->sin6_port
                                        : reinterpret_cast<const sockaddr_in*>(&own.storage)->sin_port);
}

FileDescriptor listen_at(const std::string& address) {
  const SocketAddress at = socket_address(address, 0);
  FileDescriptor fd(::socket(at.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) fail_system("creating a socket");
  const int off = 0;
  if (at.family() == AF_INET6) ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
  if (::bind(fd.get(), at.get(), at.length) != 0)
    fail_system("listening on " + address + " (not an address of this host? see GRADWIRE_IFNAME)");
  if (::listen(fd.get(), SOMAXCONN) != 0) fail_system("listen");
  return fd;
}

FileDescriptor listen_on(const std::string& addresses) {
  const auto all = split_addresses(addresses);
  if (all.size() < 2) return listen_at(addresses);
  try {
    return listen_at("::");  // IPv4 as well
  } catch (const Error&) {
    return listen_at("0.0.0.0");  // a host without IPv6
  }
}

}  // namespace

struct Endpoint::Impl {
  explicit Impl(EndpointOptions o) : options(std::move(o)) {
    check(options);
    const Config& config = options.config;
    listener = listen_on(options.address);
    mine.rank = options.rank;
    mine.size = options.size;
    mine.epoch = options.epoch;
    mine.host = host_identity();
    mine.host_name = host_name();
    mine.uid = ::getuid();
    mine.pid = ::getpid();
    mine.address = options.address;
    mine.port = port_of(listener.get());
    mine.nonce = random_nonce();
    mine.transport = config.transport;
    mine.sockets = config.sockets;
    mine.channel_bytes = config.channel_bytes;
    if (config.transport == "tcp" || options.size == 1) return;
    segment = std::make_unique<Segment>(layout(), mine.nonce);
    mine.memory_file = segment->file();
  }

  SegmentLayout layout() const { return {options.size, options.config.channel_bytes}; }

  std::unique_ptr<Pair> make_pair(const Blob& theirs, AtomicCounters& counters) {
    check_compatible(mine, theirs);
    auto pair = std::make_unique<Pair>(mine, theirs, options.config, counters);
    pair->segment = segment.get();
    if (segment && pair->same_host()) {
      try {
        if (theirs.memory_file < 0)
          pair->peer_segment_problem = "the peer has no shared memory";
        else
          pair->peer_segment = std::make_unique<PeerSegment>(layout(), theirs);
      } catch (const Error& e) {  // not fatal: another transport may do
        pair->peer_segment_problem = e.what();
        log(LogLevel::warning, "rank " + std::to_string(mine.rank) + ": " + e.what());
      }
    }
    pair->usable = usable_kinds(*pair);
    if (!pair->usable)
      throw Error(ErrorKind::rendezvous,
                  "rank " + std::to_string(mine.rank) + " cannot reach rank " + std::to_string(theirs.rank) +
                      " (" + theirs.host_name + "): " + refusals(*pair),
                  {.rank = mine.rank, .peer = theirs.rank, .host = theirs.host_name});
    return pair;
  }

  EndpointOptions options;
  FileDescriptor listener;
  Blob mine;
  std::unique_ptr<Segment> segment;
  bool used = false;
};

Endpoint::Endpoint(EndpointOptions options) : impl_(std::make_unique<Impl>(std::move(options))) {}
Endpoint::~Endpoint() = default;

std::string Endpoint::blob() const { return to_text(impl_->mine); }

std::unique_ptr<Transport> Endpoint::connect(const std::vector<std::string>& blobs, Deadline deadline) {
  Impl& self = *impl_;
  if (self.used) fail_argument("an Endpoint connects once; make a new one");
  if (blobs.size() != static_cast<size_t>(self.options.size))
    fail_argument("connect: expected " + std::to_string(self.options.size) + " blobs, got " +
                  std::to_string(blobs.size()));
  self.used = true;
  std::vector<Blob> parsed;
  for (size_t p = 0; p < blobs.size(); ++p) parsed.push_back(parse_blob(blobs[p], static_cast<int>(p)));
  if (parsed[static_cast<size_t>(self.mine.rank)] != self.mine)
    fail_argument("connect: the blob at place " + std::to_string(self.mine.rank) + " is not this endpoint's");

  auto counters = std::make_unique<AtomicCounters>();
  std::vector<std::unique_ptr<Pair>> pairs(blobs.size());
  // Peers' shared memory is mapped before anyone is told so: a peer closes its file when it has heard from all.
  for (size_t p = 0; p < blobs.size(); ++p)
    if (parsed[p].rank != self.mine.rank) pairs[p] = self.make_pair(parsed[p], *counters);
  Rendezvous(self.mine, self.options.secret, pairs, self.listener.get()).run(deadline, self.options.idle);
  self.listener.reset();
  return std::make_unique<PerPeerTransport>(std::move(counters), self.mine, std::move(self.segment), pairs);
}

}  // namespace gw
