// The next operation's first messages, sent while this one still waits for its last: otherwise a link would idle for a
// round trip between two operations, and a DDP step is made of dozens.
#include "comm/executor.hpp"

namespace gw {
namespace {

struct Range {
  const std::byte *begin, *end;
};

bool overlap(const Range& a, const Range& b) { return a.begin < b.end && b.begin < a.end; }

}  // namespace

bool Executor::lets_through(const Executor& next) const {
  for (size_t l = 0; l < plan_->lanes.size(); ++l)
    if (cursors_[l].sends != plan_->lanes[l].sends.size()) return false;
  // GPU: operations share a stream
  for (const Executor* e : {this, &next})
    if (e->gpu_ || e->plan_->answers || e->plan_->lends || e->plan_->size == 1) return false;
  const auto memory = [](const Executor& e) {
    const Operation& op = e.plan_->operation;
    const size_t count = op.count * (has_shares(op.collective) ? static_cast<size_t>(e.plan_->size) : 1);
    const auto range = [](const void* p, size_t bytes) {
      const auto* begin = static_cast<const std::byte*>(p);
      return Range{begin, begin ? begin + bytes : begin};
    };
    // at most: the smaller array of a collective with shares is one share
    return std::array{range(e.buffers_.in, count * size_of(op.dtype)),
                      range(e.buffers_.out, count * size_of(op.dtype)),
                      range(e.buffers_.residual, count * sizeof(float))};
  };
  for (const Range& mine : memory(*this))
    for (const Range& its : memory(next))
      if (overlap(mine, its)) return false;
  return true;
}

bool Executor::send_ahead() {
  bool moved = false;
  try {
    for (size_t l = 0; l < plan_->lanes.size(); ++l) moved |= send(plan_->lanes[l], cursors_[l]);
  } catch (const Error& e) {
    if (e.kind() == ErrorKind::codec) throw placed(e);
    throw;
  }
  return moved;
}

}  // namespace gw
