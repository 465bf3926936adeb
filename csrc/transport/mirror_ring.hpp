// A byte ring over memory that is mapped twice, back to back: whatever lies in the ring is contiguous, also across its
// end, so a message is written and read in place and never cut in two.
//
// One writer, one reader, in one process or in two. Positions count bytes since the beginning and never wrap (2^64
// bytes at 1 TB/s are half a year). Nothing the other side writes is used as an index or a size: a position of its
// only says how much is there, and is ignored unless that lies between nothing and the whole ring.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace gw {

// Two adjacent cache lines: CPUs fetch lines in pairs.
inline constexpr size_t kLinePair = 128;
// Messages start at multiples of this in a ring, so payloads behind a 64-byte header stay aligned for SIMD.
inline constexpr size_t kMessageAlign = 64;

constexpr size_t message_span(size_t bytes) { return (bytes + kMessageAlign - 1) & ~(kMessageAlign - 1); }

// Power of two, at least one page: what a mirror can be made of.
size_t mirror_bytes(size_t at_least);

// `bytes` of memory, twice in a row in the address space. Owns the mapping, not the file.
class MirrorMap {
 public:
  MirrorMap() = default;
  // Maps [offset, offset + bytes) of `fd`; both must be multiples of the page. Throws Error(rendezvous).
  MirrorMap(int fd, size_t offset, size_t bytes, int protection);
  static MirrorMap anonymous(size_t bytes);
  MirrorMap(MirrorMap&& other) noexcept;
  MirrorMap& operator=(MirrorMap&& other) noexcept;
  ~MirrorMap();

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

// The part of a ring both sides share. All zeros is an empty ring.
struct RingControl {
  alignas(kLinePair) std::atomic<uint64_t> tail{0};  // written by the writer: end of the last message
  alignas(kLinePair) std::atomic<uint64_t> head{
      0};  // written by the reader: start of the oldest unread message
  alignas(kLinePair) std::atomic<uint32_t> blocked{
      0};  // written by the writer: it found no room and wants to know
};
static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<uint32_t>::is_always_lock_free,
              "ring positions are shared between processes");

// Publishing a position and looking at the other side's "I sleep" flag is Dekker's pattern: both must be seq_cst, or
// each side may miss what the other has just written.
class RingWriter {
 public:
  RingWriter() = default;
  RingWriter(RingControl* control, std::byte* data, size_t capacity)
      : control_(control), data_(data), capacity_(capacity) {}

  std::byte* reserve(size_t bytes) {
    const size_t need = message_span(bytes);
    if (!fits(need)) {
      head_ = control_->head.load(std::memory_order_acquire);
      if (!fits(need)) return blocked_reserve(need);
    }
    return data_ + (tail_ & (capacity_ - 1));
  }
  // The message is complete, but the reader does not know yet.
  void advance(size_t bytes) {
    asked_ += message_span(bytes);
    advance_ask(bytes);
  }
  // The same, and its memory stays as it is until the reader's answer has been consumed.
  void advance_ask(size_t bytes) { tail_ += message_span(bytes); }
  void publish() {
    if (blocked_) unblock();
    control_->tail.store(tail_, std::memory_order_seq_cst);
  }
  uint64_t tail() const { return tail_; }
  // The reader answers by writing over the message and moving on.
  const std::byte* peek_answer(size_t bytes) {
    if (!answered(bytes)) {
      head_ = control_->head.load(std::memory_order_acquire);
      if (!answered(bytes)) return nullptr;
    }
    return data_ + (asked_ & (capacity_ - 1));
  }
  void consume_answer(size_t bytes) { asked_ += message_span(bytes); }
  // The reader has consumed everything. If not it will wake this side when it consumes.
  bool taken();
  // Did the reader make room since a reserve() failed, or answer since a peek_answer() did?
  bool news() {
    if (!blocked_ && asked_ == tail_) return false;
    const uint64_t now = control_->head.load(std::memory_order_seq_cst);
    const bool moved = now != head_;
    head_ = now;
    return moved;
  }
  size_t capacity() const { return capacity_; }

 private:
  bool fits(size_t need) const {
    const uint64_t used = std::max(tail_ - head_, tail_ - asked_);
    return used <= capacity_ && need <= capacity_ - used;
  }
  bool answered(size_t bytes) const {
    const uint64_t here = head_ - asked_;
    return here >= bytes && here <= tail_ - asked_;
  }
  std::byte* blocked_reserve(size_t need);
  void block();
  void unblock();

  RingControl* control_ = nullptr;
  std::byte* data_ = nullptr;
  size_t capacity_ = 0;
  uint64_t tail_ = 0;
  uint64_t head_ = 0;   // as last read; a stale value only understates the room
  uint64_t asked_ = 0;  // start of the oldest message whose answer has not been consumed; none: tail_
  bool blocked_ = false;
};

class RingReader {
 public:
  RingReader() = default;
  RingReader(RingControl* control, std::byte* data, size_t capacity)
      : control_(control), data_(data), capacity_(capacity) {}

  const std::byte* peek(size_t bytes) {
    if (!holds(bytes)) {
      tail_ = control_->tail.load(std::memory_order_acquire);
      if (!holds(bytes)) return nullptr;
    }
    return at_head();
  }
  std::byte* at_head() const { return data_ + (head_ & (capacity_ - 1)); }
  // True if the writer waits for room and has to be woken.
  bool consume(size_t bytes) {
    head_ += message_span(bytes);
    control_->head.store(head_, std::memory_order_seq_cst);
    return control_->blocked.load(std::memory_order_seq_cst) != 0;
  }
  // The same, but the writer is not told: returns what its head will be.
  uint64_t skip(size_t bytes) { return head_ += message_span(bytes); }
  // Did the writer publish anything since the last look (a failed peek(), or news())?
  bool news() {
    const uint64_t now = control_->tail.load(std::memory_order_seq_cst);
    const bool moved = now != tail_;
    tail_ = now;
    return moved;
  }

 private:
  bool holds(size_t bytes) const {
    const uint64_t here = tail_ - head_;
    return here >= bytes && here <= capacity_;
  }

  RingControl* control_ = nullptr;
  std::byte* data_ = nullptr;
  size_t capacity_ = 0;
  uint64_t head_ = 0;
  uint64_t tail_ = 0;  // as last read; a stale value only understates what is there
};

}  // namespace gw
