// The memory that `comm.empty` hands out: other ranks of this host map it too, so an array that lies here need not be
// sent. A message lends it instead, by its place; the peer reads it there, and writes an answer there.
//
// One memfd a process: an array serves every communicator, and costs no descriptor. The file grows but is sealed against
// shrinking, so what a peer has mapped can never fault; an array that is freed is punched out of it, which gives its pages
// back although peers still map them. No name in any file system, and gone with the last process that maps it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "transport/file_descriptor.hpp"

namespace gw {

// Where lent memory lies: the payload of a message that carries no values. Plain data.
struct Loan {
  uint64_t offset = 0;  // in the lender's arena
  uint64_t bytes = 0;
  int32_t file = -1;  // the arena's descriptor in the lender's process
  uint32_t reserved = 0;

  Loan part(size_t begin, size_t length) const { return {offset + begin, length, file, 0}; }
};

class Arena : public std::enable_shared_from_this<Arena> {
 public:
  // This process's; a forked child gets one of its own.
  static std::shared_ptr<Arena> of_process();
  // Bytes of all blocks of this process's arena.
  static size_t process_bytes();
  // The place of memory that lies wholly in a block of this process's arena, and is still shared. A few
  // nanoseconds if the process has no block.
  static std::optional<Loan> loan_of(const void* memory, size_t bytes);

  // Owns its memory, beyond the life of every communicator.
  class Block {
   public:
    Block(std::shared_ptr<Arena> arena, std::byte* data, size_t bytes)
        : arena_(std::move(arena)), data_(data), bytes_(bytes) {}
    Block(const Block&) = delete;
    ~Block() { arena_->release(data_); }
    std::byte* data() const { return data_; }
    size_t bytes() const { return bytes_; }

   private:
    std::shared_ptr<Arena> arena_;
    std::byte* data_;
    size_t bytes_;
  };

  Arena();
  ~Arena();
  // At least one byte. Pages exist once they are touched. Throws std::bad_alloc.
  std::unique_ptr<Block> allocate(size_t bytes);
  // The pages of this memory become private to the process, with their content; peers keep the old ones. For
  // loans that a failed operation leaves behind: a peer that wakes up late still reads and writes, but not here. The
  // block is never lent again.
  void withdraw(const Loan& loan) noexcept;

 private:
  struct Extent {
    uint64_t offset;
    size_t bytes;  // whole pages
    bool shared;
  };
  using Extents = std::map<std::byte*, Extent>;
  uint64_t take(size_t bytes);  // a free place in the file
  bool reach(uint64_t end);     // the file is at least so long
  void give(uint64_t offset, size_t bytes);
  void release(std::byte* data);
  const Extents::value_type* lent(const Loan& loan) const;

  const int64_t process_;
  FileDescriptor file_;
  mutable std::mutex mutex_;
  uint64_t end_ = 0, file_bytes_ = 0;  // places given out so far; the file may be shorter
  Extents extents_;                    // by address
  std::map<uint64_t, size_t> free_;    // places in the file, never two that touch
};

}  // namespace gw
