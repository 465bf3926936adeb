#include "transport/mirror_ring.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "transport/file_descriptor.hpp"

namespace gw {

size_t mirror_bytes(size_t at_least) {
  return std::max(std::bit_ceil(at_least), static_cast<size_t>(::sysconf(_SC_PAGESIZE)));
}

MirrorMap::MirrorMap(int fd, size_t offset, size_t bytes, int protection) {
  // Reserve both halves first, so that nothing else can land in the second one.
  void* base = ::mmap(nullptr, 2 * bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) fail_system("mmap of " + std::to_string(2 * bytes) + " bytes of address space");
  data_ = static_cast<std::byte*>(base);
  bytes_ = bytes;
  for (int half = 0; half < 2; ++half) {
    std::byte* at = data_ + static_cast<size_t>(half) * bytes;
    if (::mmap(at, bytes, protection, MAP_SHARED | MAP_FIXED, fd, static_cast<off_t>(offset)) == MAP_FAILED) {
      const int error = errno;
      ::munmap(data_, 2 * bytes);
      errno = error;
      fail_system("mmap of a " + std::to_string(bytes) + "-byte ring");
    }
  }
}

MirrorMap MirrorMap::anonymous(size_t bytes) {
  const FileDescriptor fd = memory_file("gradwire-ring", bytes);
  return MirrorMap(fd.get(), 0, bytes, PROT_READ | PROT_WRITE);
}

MirrorMap::MirrorMap(MirrorMap&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

MirrorMap& MirrorMap::operator=(MirrorMap&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

MirrorMap::~MirrorMap() {
  if (data_) ::munmap(data_, 2 * bytes_);
}

// Raise the flag, then look once more: the reader either sees the flag, or we see its new head.
std::byte* RingWriter::blocked_reserve(size_t need) {
  if (need > capacity_) return nullptr;
  if (!blocked_) block();
  return fits(need) ? data_ + (tail_ & (capacity_ - 1)) : nullptr;
}

bool RingWriter::taken() {
  if (head_ != tail_) head_ = control_->head.load(std::memory_order_acquire);
  if (head_ == tail_) return true;
  if (!blocked_) block();
  return head_ == tail_;
}

void RingWriter::block() {
  blocked_ = true;
  control_->blocked.store(1, std::memory_order_seq_cst);
  head_ = control_->head.load(std::memory_order_seq_cst);
}

void RingWriter::unblock() {
  blocked_ = false;
  control_->blocked.store(0, std::memory_order_relaxed);
}

}  // namespace gw
