#include "transport/segment.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <new>

#include "base/error.hpp"

namespace gw {
namespace {

FileDescriptor open_peer_file(const Blob& peer, size_t bytes) {
  const std::string path = "/proc/" + std::to_string(peer.pid) + "/fd/" + std::to_string(peer.memory_file);
  FileDescriptor fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) fail_system("opening the shared memory of rank " + std::to_string(peer.rank) + " (" + path + ")");
  // Length and seals first: a file that can shrink would kill its reader with SIGBUS.
  if (!is_memory_file(fd.get(), bytes))
    throw Error(ErrorKind::rendezvous,
                path + " is not the shared memory of rank " + std::to_string(peer.rank));
  return fd;
}

}  // namespace

size_t SegmentLayout::head_bytes() const {
  const size_t controls = static_cast<size_t>(size) * kLanes * sizeof(RingControl);
  const size_t page = mirror_bytes(1);
  return (sizeof(SegmentHead) + controls + page - 1) / page * page;
}

SegmentMap::SegmentMap(int fd, size_t bytes) : bytes_(bytes) {
  memory_ = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory_ == MAP_FAILED) fail_system("mmap of shared memory");
}

SegmentMap::~SegmentMap() { ::munmap(memory_, bytes_); }

// Only the rings that are used are mapped, and only the pages that are touched exist.
Segment::Segment(SegmentLayout layout, const Nonce& nonce)
    : layout_(layout),
      file_(memory_file("gradwire", layout.bytes())),
      map_(file_.get(), layout.head_bytes()) {
  SegmentHead* head = new (map_.head()) SegmentHead;
  for (size_t i = 0; i < static_cast<size_t>(layout.size) * kLanes; ++i)
    new (head->controls() + i) RingControl;
  head->nonce = nonce;
}

RingWriter Segment::writer(int peer, int lane, size_t bytes) {
  rings_.emplace_back(file_.get(), layout_.ring_offset(peer, lane), bytes, PROT_READ | PROT_WRITE);
  return {map_.head()->controls() + layout_.ring(peer, lane), rings_.back().data(), bytes};
}

std::byte* Segment::board(int self, size_t bytes) {
  check_internal(bytes <= layout_.most_board_bytes(), "no room for a board");
  return rings_.emplace_back(file_.get(), layout_.board_offset(self), bytes, PROT_READ | PROT_WRITE).data();
}

PeerSegment::PeerSegment(SegmentLayout layout, const Blob& peer)
    : layout_(layout),
      pid_(peer.pid),
      process_(static_cast<int>(::syscall(SYS_pidfd_open, static_cast<pid_t>(peer.pid), 0))),
      file_(open_peer_file(peer, layout.bytes())),
      map_(file_.get(), layout.head_bytes()) {
  // The number may belong to another process's file by now.
  if (map_.head()->nonce != peer.nonce)
    throw Error(ErrorKind::rendezvous, "the shared memory of rank " + std::to_string(peer.rank) +
                                           " carries another nonce than it announced");
}

bool PeerSegment::owner_died() const {
  pollfd fd{process_.get(), POLLIN, 0};
  // an old kernel has no such descriptor: then only the control connection tells
  return process_ && ::poll(&fd, 1, 0) > 0;
}

std::byte* PeerSegment::lent(const Loan& loan) {
  if (std::byte* at = arena_.find(loan)) return at;
  // A process that lives now had this number when its file was opened; else the file, or the error, may be anybody's.
  try {
    std::byte* at = arena_.map(loan, pid_);
    if (!owner_died()) return at;
  } catch (const Error&) {
    if (!owner_died()) throw;
  }
  arena_.forget();
  return nullptr;
}

// Writable, because answers go where the messages lie. The owner of the ring never trusts what it reads there either.
RingReader PeerSegment::reader(int self, int lane, size_t bytes) {
  rings_.emplace_back(file_.get(), layout_.ring_offset(self, lane), bytes, PROT_READ | PROT_WRITE);
  return {map_.head()->controls() + layout_.ring(self, lane), rings_.back().data(), bytes};
}

std::byte* PeerSegment::board(int owner, size_t bytes) {
  check_internal(bytes <= layout_.most_board_bytes(), "no room for a board");
  return rings_.emplace_back(file_.get(), layout_.board_offset(owner), bytes, PROT_READ).data();
}

}  // namespace gw
