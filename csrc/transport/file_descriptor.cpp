#include "transport/file_descriptor.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cstring>

#include "base/error.hpp"

namespace gw {
namespace {
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
}

void fail_system(const std::string& what) {
  const int error = errno;
  std::string remedy;
  if (error == EMFILE) remedy = "; raise the limit on open files (ulimit -n) or lower GRADWIRE_SOCKETS";
  if (error == ENOMEM) remedy = "; lower GRADWIRE_CHANNEL_BYTES";
  throw Error(ErrorKind::rendezvous, what + " failed: " + std::strerror(error) + remedy);
}

FileDescriptor memory_file(const char* name, size_t bytes) {
  FileDescriptor fd(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) fail_system("memfd_create");
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) fail_system("ftruncate of shared memory");
  if (::fcntl(fd.get(), F_ADD_SEALS, kSeals) != 0) fail_system("sealing shared memory");
  return fd;
}

FileDescriptor growing_memory_file(const char* name) {
  FileDescriptor fd(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) fail_system("memfd_create");
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL) != 0) fail_system("sealing shared memory");
  return fd;
}

bool cannot_shrink(int fd) {
  const int seals = ::fcntl(fd, F_GET_SEALS);
  return seals >= 0 && (seals & F_SEAL_SHRINK);
}

bool is_memory_file(int fd, size_t bytes) {
  struct stat status{};
  return ::fstat(fd, &status) == 0 && static_cast<size_t>(status.st_size) >= bytes &&
         ::fcntl(fd, F_GET_SEALS) == kSeals;
}

}  // namespace gw
