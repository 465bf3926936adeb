// The executor's messages without values: where both ranks have mapped the sender's array (transport/arena.hpp) a message
// says where its value lies. A peer reads it there; the answer to an ask it writes there, which is all of an all_reduce
// between two ranks: no copy on either side.
#include <cstring>

#include "base/error.hpp"
#include "comm/executor.hpp"

namespace gw {

// The place of this rank's value, if the message lends it.
std::optional<Loan> Executor::loan(const Unit& u) const {
  const bool input = u.kind == StepKind::send && u.from_input;
  const std::optional<Loan>& whole = input ? buffers_.in_loan : buffers_.out_loan;
  if (!u.lend || !whole) return std::nullopt;
  return whole->part((input ? u.in_offset : u.out_offset) * size_of(plan_->operation.dtype), u.payload_bytes);
}

// What a message lends, checked; no data if not all of it is here.
Payload Executor::borrowed(int peer, const std::byte* message, const Unit& u) const {
  if (!message) return {};
  Loan lent;
  std::memcpy(&lent, message + kHeaderBytes, sizeof(lent));
  if (lent.bytes != u.payload_bytes)
    throw Error(ErrorKind::frame, "rank " + std::to_string(peer) + " lends " + std::to_string(lent.bytes) +
                                      " bytes instead of " + std::to_string(u.payload_bytes));
  std::byte* at = transport_->lent(peer, lent);
  return {at, u.payload_bytes, at};
}

// Peers are done with the memory that this rank lent them.
bool Executor::all_taken() {
  bool all = true;
  for (const auto& [peer, lane] : plan_->send_channels) all &= transport_->channel(peer, lane).taken();
  return all;
}

void Executor::withdraw() {
  driver().abandon();
  if (!lends_) return;
  for (const auto& whole : {buffers_.in_loan, buffers_.out_loan})
    if (whole) Arena::of_process()->withdraw(*whole);
}

}  // namespace gw
