#include "transport/arena.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <iterator>
#include <new>
#include <utility>

namespace gw {
namespace {

std::mutex process_mutex;
std::shared_ptr<Arena> process_arena;
std::atomic<bool> any_block{false};
std::atomic<size_t> bytes_of_blocks{0};

size_t page() { return static_cast<size_t>(::sysconf(_SC_PAGESIZE)); }
size_t whole_pages(size_t bytes) { return (bytes + page() - 1) / page() * page(); }

}  // namespace

std::shared_ptr<Arena> Arena::of_process() {
  std::lock_guard lock(process_mutex);
  // What a child inherits it may read and write, but places in the file are its parent's to give away.
  if (!process_arena || process_arena->process_ != ::getpid()) {
    process_arena = std::make_shared<Arena>();
    bytes_of_blocks.store(0, std::memory_order_relaxed);
  }
  return process_arena;
}

size_t Arena::process_bytes() { return bytes_of_blocks.load(std::memory_order_relaxed); }

Arena::Arena() : process_(::getpid()), file_(growing_memory_file("gradwire-arena")) {}
Arena::~Arena() = default;

std::unique_ptr<Arena::Block> Arena::allocate(size_t bytes) {
  const size_t whole = whole_pages(bytes);
  if (whole < bytes) throw std::bad_alloc();
  std::lock_guard lock(mutex_);
  const uint64_t offset = take(whole);
  void* data =
      ::mmap(nullptr, whole, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), static_cast<off_t>(offset));
  // After the mapping: the file cannot shrink again, and peers map all of it.
  if (data != MAP_FAILED && !reach(offset + whole)) {
    ::munmap(data, whole);
    data = MAP_FAILED;
  }
  if (data == MAP_FAILED) {
    give(offset, whole);
    throw std::bad_alloc();
  }
  extents_[static_cast<std::byte*>(data)] = {offset, whole, true};
  any_block.store(true, std::memory_order_release);
  bytes_of_blocks.fetch_add(whole, std::memory_order_relaxed);
  return std::make_unique<Block>(shared_from_this(), static_cast<std::byte*>(data), bytes);
}

void Arena::release(std::byte* data) {
  std::lock_guard lock(mutex_);
  const auto it = extents_.find(data);
  const Extent extent = it->second;
  extents_.erase(it);
  ::munmap(data, extent.bytes);
  if (process_ != ::getpid()) return;
  bytes_of_blocks.fetch_sub(extent.bytes, std::memory_order_relaxed);
  ::fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(extent.offset),
              static_cast<off_t>(extent.bytes));
  // what was withdrawn a peer may still be writing to: its place is never used again
  if (extent.shared) give(extent.offset, extent.bytes);
}

bool Arena::reach(uint64_t end) {
  if (end <= file_bytes_) return true;
  if (::ftruncate(file_.get(), static_cast<off_t>(end)) != 0) return false;
  file_bytes_ = end;
  return true;
}

uint64_t Arena::take(size_t bytes) {
  for (auto it = free_.begin(); it != free_.end(); ++it) {
    const auto [offset, room] = *it;
    if (room < bytes) continue;
    free_.erase(it);
    if (room > bytes) free_[offset + bytes] = room - bytes;
    return offset;
  }
  return std::exchange(end_, end_ + bytes);
}

void Arena::give(uint64_t offset, size_t bytes) {
  const auto next = free_.lower_bound(offset);
  if (next != free_.end() && next->first == offset + bytes) {
    bytes += next->second;
    free_.erase(next);
  }
  const auto after = free_.lower_bound(offset);
  if (after != free_.begin() && std::prev(after)->first + std::prev(after)->second == offset)
    std::prev(after)->second += bytes;
  else
    free_[offset] = bytes;
}

// ---- loans -------------------------------------------------------------------------------------------------------

std::optional<Loan> Arena::loan_of(const void* memory, size_t bytes) {
  if (!any_block.load(std::memory_order_acquire)) return std::nullopt;
  const std::shared_ptr<Arena> arena = of_process();
  std::lock_guard lock(arena->mutex_);
  auto* const begin = static_cast<std::byte*>(const_cast<void*>(memory));
  auto it = arena->extents_.upper_bound(begin);
  if (it == arena->extents_.begin()) return std::nullopt;
  const auto& [data, extent] = *--it;
  const auto into = static_cast<size_t>(begin - data);
  if (!extent.shared || into > extent.bytes || bytes > extent.bytes - into) return std::nullopt;
  return Loan{extent.offset + into, bytes, arena->file_.get(), 0};
}

const Arena::Extents::value_type* Arena::lent(const Loan& loan) const {
  for (const auto& entry : extents_) {
    const Extent& e = entry.second;
    if (loan.offset >= e.offset && loan.offset - e.offset <= e.bytes &&
        loan.bytes <= e.bytes - (loan.offset - e.offset))
      return &entry;
  }
  return nullptr;
}

// Without memory for a copy the pages stay shared: what a failed operation left in them means nothing anyway.
void Arena::withdraw(const Loan& loan) noexcept {
  std::lock_guard lock(mutex_);
  const auto* found = lent(loan);
  if (!found) return;
  const uint64_t begin = (loan.offset - found->second.offset) / page() * page();
  const size_t bytes = whole_pages(loan.offset - found->second.offset + loan.bytes) - begin;
  std::byte* at = found->first + begin;
  void* copy = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (copy == MAP_FAILED) return;
  std::memcpy(copy, at, bytes);
  if (::mremap(copy, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, at) == MAP_FAILED) {
    ::munmap(copy, bytes);
    return;
  }
  extents_.at(found->first).shared = false;
}

}  // namespace gw
