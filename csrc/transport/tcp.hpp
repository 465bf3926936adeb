// A channel over k TCP sockets: message i travels on socket i mod k, whole and without any framing, since both sides
// know every message's size.
#pragma once
#include <sys/uio.h>

#include "transport/counters.hpp"
#include "transport/file_descriptor.hpp"
#include "transport/link_channel.hpp"
#include "transport/stream_buffer.hpp"

namespace gw {

// What a connected socket needs to carry messages: non-blocking, no Nagle. Throws Error(rendezvous).
void prepare_socket(int fd);

class TcpStream {
 public:
  TcpStream(FileDescriptor socket, size_t capacity, AtomicCounters& counters);

  std::byte* reserve(size_t bytes);
  void commit(size_t bytes);
  void commit(size_t head, const std::byte* rest, size_t bytes);
  const std::byte* peek(size_t bytes);
  void consume(size_t bytes) { in_.shrink(bytes); }
  // Hands waiting bytes to the kernel; true if it took any.
  bool push();
  bool flushed() const { return out_.used() == 0; }
  bool broken() const { return broken_; }
  int socket() const { return socket_.get(); }

 private:
  void fail();
  size_t send(iovec* pieces, size_t count);
  bool receive(size_t wanted);

  FileDescriptor socket_;
  StreamBuffer out_, in_;
  AtomicCounters& counters_;
  bool broken_ = false;
};

class TcpChannel final : public LinkChannel {
 public:
  TcpChannel(std::vector<FileDescriptor> sockets, size_t capacity, AtomicCounters& counters);

  std::byte* reserve(size_t bytes) override { return streams_[out_].reserve(bytes); }
  void commit(size_t bytes) override;
  bool gathers() const override { return true; }
  void commit(size_t head, const std::byte* rest, size_t bytes) override;
  const std::byte* peek(size_t bytes) override { return streams_[in_].peek(bytes); }
  void consume(size_t bytes) override;
  bool flushed() const override;
  size_t capacity() const override { return capacity_; }
  bool progress() override;
  bool broken() const override;
  std::vector<int> sockets() const override;

 private:
  size_t next(size_t stream) const { return stream + 1 == streams_.size() ? 0 : stream + 1; }

  std::vector<TcpStream> streams_;
  size_t capacity_;
  AtomicCounters& counters_;
  size_t out_ = 0, in_ = 0;  // streams of the next outgoing and the oldest unread message
};

}  // namespace gw
