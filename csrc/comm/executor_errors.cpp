// What an executor says when an operation cannot go on: who, where, and what both sides were doing.
#include "base/error.hpp"
#include "codec/wire.hpp"
#include "comm/executor.hpp"

namespace gw {

void Executor::mismatch(int peer, const std::byte* got, const std::byte* expected) const {
  const auto text = [](const std::byte* bytes) {
    const FrameHeader h = read_header(bytes);
    std::string_view algorithm = "";
    for (const Algorithm& a : algorithms())
      if (a.id == h.algorithm) algorithm = a.name;
    return gw::describe(h, name(static_cast<Collective>(h.collective)), algorithm);
  };
  throw Error(
      ErrorKind::mismatch,
      "ranks called different operations: rank " + std::to_string(plan_->rank) + " runs " + text(expected) +
          "; rank " + std::to_string(peer) + " (" + transport_->host(peer) + ") runs " + text(got) +
          ". They differ in: " + differences(read_header(expected), read_header(got)) +
          ". Every rank must make the same calls in the same order with the same count, dtype, op and codec",
      {.rank = plan_->rank,
       .peer = peer,
       .host = transport_->host(peer),
       .op = std::string(name(plan_->operation.collective)),
       .seq = seq_,
       .step = step()});
}

// A codec knows no rank and no operation: who and where is added here.
Error Executor::placed(const Error& e) const {
  const int rank = plan_->rank;
  const std::string host = transport_->host(rank);
  return {e.kind(),
          describe() + " on rank " + std::to_string(rank) + " (" + host + "): " + e.what(),
          {.rank = rank,
           .peer = rank,
           .host = host,
           .op = std::string(name(plan_->operation.collective)),
           .seq = seq_,
           .step = step()}};
}

}  // namespace gw
