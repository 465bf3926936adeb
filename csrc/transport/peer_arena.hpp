// Another process's arena, mapped when the first message lends from it. See arena.hpp.
#pragma once
#include "transport/arena.hpp"

namespace gw {

class PeerArena {
 public:
  PeerArena() = default;
  PeerArena(const PeerArena&) = delete;
  ~PeerArena();
  // The memory of a loan, or null: it must be mapped first.
  std::byte* find(const Loan& loan) const;
  // The same, from process `pid`'s file, which is still its own if the process lives afterwards. Null if there is no
  // such process or file. What find() returned before is not valid any more. Throws Error(frame) if the file is
  // not an arena or does not reach so far.
  std::byte* map(const Loan& loan, int64_t pid);
  void forget();

 private:
  void grow(const FileDescriptor& file, size_t bytes);

  std::byte* memory_ = nullptr;
  size_t bytes_ = 0;
  int32_t file_ = -1;                // the number in the other process
  uint64_t device_ = 0, inode_ = 0;  // what that number meant
};

}  // namespace gw
