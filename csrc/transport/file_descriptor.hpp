// Owner of a file descriptor, and the error for system calls that fail.
#pragma once
#include <unistd.h>

#include <cerrno>
#include <string>
#include <utility>

namespace gw {

class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~FileDescriptor() { reset(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  void reset() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }

 private:
  int fd_ = -1;
};

// Throws Error(rendezvous) with `what`, errno's text, and the remedy for the common causes.
[[noreturn]] void fail_system(const std::string& what);

// A memfd of `bytes` zeros that nobody can resize: mapping it can never fault past its end. It has no name in any file
// system and is gone with its last mapping, also after a crash.
FileDescriptor memory_file(const char* name, size_t bytes);
// Is `fd` such a file, and at least this long?
bool is_memory_file(int fd, size_t bytes);
// An empty one that can grow and never shrink: what has been mapped can never fault.
FileDescriptor growing_memory_file(const char* name);
bool cannot_shrink(int fd);

}  // namespace gw
