// The memory behind `comm.empty`, as its owner and as a peer see it.
#include <doctest/doctest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "base/error.hpp"
#include "transport/peer_arena.hpp"

using namespace gw;

namespace {

constexpr size_t kPage = 4096;

bool all(const std::byte* p, size_t n, int value) {
  for (size_t i = 0; i < n; ++i)
    if (p[i] != static_cast<std::byte>(value)) return false;
  return true;
}
void fill(std::byte* p, size_t n, int value) { std::memset(p, value, n); }

Loan loan(const Arena::Block& b) { return Arena::loan_of(b.data(), b.bytes()).value(); }

template <class F>
ErrorKind kind_of_error(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.kind();
  }
  return ErrorKind::internal;
}

}  // namespace

TEST_CASE("a peer reads and writes a block and its parts where they lie, however the arena grows") {
  const auto arena = Arena::of_process();
  PeerArena peer;
  std::vector<std::unique_ptr<Arena::Block>> blocks;
  for (size_t bytes : {size_t{1}, kPage - 1, kPage, 3 * kPage + 5, size_t{1} << 20}) {
    blocks.push_back(arena->allocate(bytes));
    fill(blocks.back()->data(), bytes, static_cast<int>(blocks.size()));
    for (size_t b = 0; b < blocks.size(); ++b) {
      const Loan whole = loan(*blocks[b]);
      std::byte* there = peer.find(whole) ? peer.find(whole) : peer.map(whole, ::getpid());
      CHECK(there != blocks[b]->data());
      CHECK(all(there, blocks[b]->bytes(), static_cast<int>(b + 1)));
    }
  }
  Arena::Block& large = *blocks.back();
  const Loan part = Arena::loan_of(large.data() + 100, 50).value();
  CHECK(part.offset == loan(large).offset + 100);
  fill(peer.find(part), 50, 77);
  CHECK(all(large.data() + 100, 50, 77));
  CHECK(large.data()[99] == std::byte{5});
  CHECK(large.data()[150] == std::byte{5});
}

TEST_CASE("memory that is not, or not wholly, in a block is not lent") {
  const auto block = Arena::of_process()->allocate(2 * kPage);
  CHECK(Arena::loan_of(block->data(), 2 * kPage));
  CHECK(Arena::loan_of(block->data() + kPage, kPage));
  CHECK(!Arena::loan_of(block->data() + kPage, kPage + 1));
  CHECK(!Arena::loan_of(block->data() - 1, 2));
  CHECK(!Arena::loan_of(block->data(), ~size_t{0}));
  std::byte own[8];
  CHECK(!Arena::loan_of(own, 8));
}

TEST_CASE("freed blocks give their pages back under a peer's mapping, and their place is used again") {
  const auto arena = Arena::of_process();
  PeerArena peer;
  const size_t before = Arena::process_bytes();
  auto first = arena->allocate(kPage), second = arena->allocate(kPage), third = arena->allocate(kPage);
  const Loan a = loan(*first), b = loan(*second);
  fill(second->data(), kPage, 9);
  std::byte* there = peer.map(b, ::getpid());
  CHECK(Arena::process_bytes() == before + 3 * kPage);
  second.reset();
  CHECK(all(there, kPage, 0));  // a hole, not a fault
  first.reset();
  CHECK(loan(*arena->allocate(2 * kPage)).offset == a.offset);  // the two holes became one
  third.reset();
  CHECK(Arena::process_bytes() == before);
}

TEST_CASE("a withdrawn loan keeps its values for the owner, and late writes of a peer miss them") {
  const auto arena = Arena::of_process();
  PeerArena peer;
  auto block = arena->allocate(4 * kPage);
  fill(block->data(), 4 * kPage, 1);
  const Loan whole = loan(*block), part = Arena::loan_of(block->data() + kPage + 10, 100).value();
  std::byte* there = peer.map(whole, ::getpid());
  arena->withdraw(part);
  CHECK(all(block->data(), 4 * kPage, 1));
  fill(there + kPage, kPage, 2);
  CHECK(all(block->data(), 4 * kPage, 1));
  fill(block->data() + kPage, kPage, 3);
  CHECK(all(there + kPage, kPage, 2));  // nor does the peer see what the owner does next
  CHECK(!Arena::loan_of(block->data(), 1));
  block.reset();
  CHECK(all(there, 4 * kPage, 0));                                  // its pages are given back
  CHECK(loan(*arena->allocate(4 * kPage)).offset != whole.offset);  // but the peer may still write there
}

TEST_CASE("what a message says of lent memory is believed only as far as the file goes") {
  const auto block = Arena::of_process()->allocate(kPage);
  const Loan good = loan(*block);
  const auto error = [&](Loan l) { return kind_of_error([&] { PeerArena().map(l, ::getpid()); }); };
  CHECK(error({.offset = uint64_t{1} << 40, .bytes = 1, .file = good.file}) == ErrorKind::frame);
  CHECK(error({.offset = ~uint64_t{0}, .bytes = 2, .file = good.file}) == ErrorKind::frame);
  CHECK(error({.offset = good.offset, .bytes = ~uint64_t{0}, .file = good.file}) == ErrorKind::frame);
  CHECK(PeerArena().map({.offset = 0, .bytes = 1, .file = -1}, ::getpid()) == nullptr);
  CHECK(PeerArena().map({.offset = 0, .bytes = 1, .file = 99999}, ::getpid()) == nullptr);
  const FileDescriptor shrinks(::memfd_create("shrinks", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  CHECK(::ftruncate(shrinks.get(), 1 << 20) == 0);
  CHECK(error({.offset = 0, .bytes = 1, .file = shrinks.get()}) == ErrorKind::frame);
  PeerArena peer;
  CHECK(peer.map(good, ::getpid()) != nullptr);
  CHECK(peer.find({.offset = ~uint64_t{0}, .bytes = 2, .file = good.file}) == nullptr);
}

TEST_CASE(
    "a forked child shares its parent's blocks, frees none of their memory, and has an arena of its own") {
  auto block = Arena::of_process()->allocate(kPage);
  fill(block->data(), kPage, 4);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const bool seen = all(block->data(), kPage, 4);
    auto own = Arena::of_process()->allocate(kPage);
    fill(own->data(), kPage, 5);
    const bool lent = Arena::loan_of(own->data(), kPage).has_value();
    block.reset();
    ::_exit(seen && lent ? 0 : 1);
  }
  int status = 1;
  CHECK(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  CHECK(all(block->data(), kPage, 4));
}
