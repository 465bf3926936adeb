// Bytes on their way to or from a socket: a mirror ring used by one thread. Unlike in a shared ring, messages follow one
// another without padding, because the stream has none.
#pragma once
#include "transport/mirror_ring.hpp"

namespace gw {

class StreamBuffer {
 public:
  explicit StreamBuffer(size_t capacity) : map_(MirrorMap::anonymous(capacity)) {}

  size_t capacity() const { return map_.bytes(); }
  size_t used() const { return tail_ - head_; }
  size_t room() const { return capacity() - used(); }
  std::byte* begin() const { return map_.data() + (head_ & (capacity() - 1)); }
  std::byte* end() const { return map_.data() + (tail_ & (capacity() - 1)); }
  void grow(size_t bytes) { tail_ += bytes; }
  void shrink(size_t bytes) { head_ += bytes; }
  void clear() { head_ = tail_; }
  // An empty buffer starts again at its beginning: aligned, and still in the cache from the last time.
  void rewind_if_empty() {
    if (head_ == tail_) head_ = tail_ = 0;
  }

 private:
  MirrorMap map_;
  size_t head_ = 0, tail_ = 0;
};

}  // namespace gw
