// What a caller asked for, apart from the memory it is done on.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "base/dtype.hpp"
#include "codec/codec.hpp"
#include "schedule/schedule.hpp"
#include "transport/arena.hpp"

namespace gw {

// One array holds a share for every rank, the other one share (all_to_all: both hold one for every rank).
constexpr bool has_shares(Collective c) {
  return c == Collective::reduce_scatter || c == Collective::all_gather || c == Collective::all_to_all;
}

struct Operation {
  Collective collective = Collective::all_reduce;
  ReduceOp op = ReduceOp::sum;
  DType dtype = DType::f32;
  // all_reduce, broadcast, send, recv: elements of the array. reduce_scatter, all_gather, all_to_all: elements of one
  // rank's share (the larger array has size times as many).
  size_t count = 0;
  CodecPtr codec;              // null: the array's own bytes
  std::string_view algorithm;  // points into the registry; empty for send and recv
  int peer = -1;               // broadcast: root; send, recv: the other rank
  uint32_t tag = 0;
  bool in_place = true;
  bool with_residual = false;

  bool operator==(const Operation&) const = default;
};

struct GpuCall;

// in == out for operations in place. residual: fp32, as many elements as `in`, or null.
struct Arrays {
  const void* in = nullptr;
  void* out = nullptr;
  float* residual = nullptr;
};

// And where they are. Loans of in and out, if peers can map them (arena.hpp). gpu: set if all of it is on a GPU.
struct Buffers : Arrays {
  std::optional<Loan> in_loan{}, out_loan{};
  std::shared_ptr<GpuCall> gpu{};
};

}  // namespace gw
