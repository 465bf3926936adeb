#include "transport/peer_arena.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <string>

#include "base/error.hpp"

namespace gw {
namespace {
[[noreturn]] void bad(const std::string& what) {
  throw Error(ErrorKind::frame, "a message lends memory that is not there: " + what);
}
}  // namespace

PeerArena::~PeerArena() { forget(); }

std::byte* PeerArena::find(const Loan& loan) const {
  const bool reached = loan.bytes <= bytes_ && loan.offset <= bytes_ - loan.bytes;
  return loan.file == file_ && reached ? memory_ + loan.offset : nullptr;
}

std::byte* PeerArena::map(const Loan& loan, int64_t pid) {
  const std::string path = "/proc/" + std::to_string(pid) + "/fd/" + std::to_string(loan.file);
  const FileDescriptor file(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!file && (errno == ENOENT || errno == ESRCH)) return nullptr;
  if (!file) fail_system("opening a peer's arrays (" + path + ")");
  struct stat status{};
  // A file that can shrink would kill its reader with SIGBUS.
  if (!cannot_shrink(file.get()) || ::fstat(file.get(), &status) != 0) bad(path + " is no arena");
  if (file_ != loan.file || device_ != status.st_dev || inode_ != status.st_ino) forget();
  if (const auto bytes = static_cast<size_t>(status.st_size); bytes > bytes_) grow(file, bytes);
  file_ = loan.file;
  device_ = status.st_dev;
  inode_ = status.st_ino;
  std::byte* at = find(loan);
  if (!at)
    bad(std::to_string(loan.bytes) + " bytes at " + std::to_string(loan.offset) + " of " +
        std::to_string(bytes_));
  return at;
}

// A mapping that grows keeps its pages.
void PeerArena::grow(const FileDescriptor& file, size_t bytes) {
  void* at = memory_ ? ::mremap(memory_, bytes_, bytes, MREMAP_MAYMOVE)
                     : ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0);
  if (at == MAP_FAILED) fail_system("mmap of a peer's arrays (" + std::to_string(bytes) + " bytes)");
  memory_ = static_cast<std::byte*>(at);
  bytes_ = bytes;
}

void PeerArena::forget() {
  if (memory_) ::munmap(memory_, bytes_);
  memory_ = nullptr;
  bytes_ = 0;
  file_ = -1;
}

}  // namespace gw
