// Ranks in the memory of one process and an exchange between them, for the simulator.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "codec/registry.hpp"
#include "comm/peer_program.hpp"

namespace gw {

struct PeerExchange {
  PeerExchange(const char* algorithm, int ranks, const CodecPtr& codec, size_t count)
      : program(make_peer_program(
            {.op = ReduceOp::sum, .dtype = DType::f32, .count = count, .codec = codec, .algorithm = {}},
            algorithm, {.ranks = ranks, .most_blocks = 2})) {
    for (int r = 0; r < ranks; ++r) {
      arrays.emplace_back(count);
      frames.emplace_back(program.frame_bytes + 64);
      signals.emplace_back(GW_PEER_HEAD + size_t{program.blocks} * program.stride);
      call.array[r] = arrays.back().data();
      uint8_t* memory = frames.back().data();
      call.frames[r] = memory + (64 - reinterpret_cast<uintptr_t>(memory) % 64) % 64;
      call.signals[r] = signals.back().data();
    }
    call.codec.id = GW_NO_CODEC;
    if (codec) {
      const CodecShape shape = shape_of(*codec).value();
      call.codec = {codec->id(), shape.block, shape.k, shape.values, shape.seed};
    }
    call.units = program.units.data();
    call.places = program.places.data();
    call.begins = program.begins.data();
    call.limit_ns = 20'000'000'000;
    call.stride = program.stride;
    call.blocks = program.blocks;
    call.ranks = call.launched = static_cast<uint32_t>(ranks);
    call.dtype = static_cast<uint32_t>(DType::f32);
    call.op = static_cast<uint32_t>(ReduceOp::sum);
    call.scale = 1;
    call.lossy = codec && codec->lossy();
  }
  // Each rank has its number + 1 everywhere.
  void fill() {
    for (size_t r = 0; r < arrays.size(); ++r) arrays[r].assign(arrays[r].size(), static_cast<float>(r + 1));
  }
  // Values that are not `expected`, over all ranks.
  size_t wrong(float expected) const {
    size_t n = 0;
    for (const auto& array : arrays)
      for (float v : array) n += v != expected;
    return n;
  }
  float sum() const { return static_cast<float>(arrays.size() * (arrays.size() + 1) / 2); }

  PeerProgram program;
  std::vector<std::vector<float>> arrays;
  std::vector<std::vector<uint8_t>> frames;
  std::vector<std::vector<uint32_t>> signals;
  gw_cuda_exchange call{};
};

}  // namespace gw
