// What an exchange does around any codec: which values a unit folds, what it scales and what it leaves owed. The rules are those of
// comm/fold.cpp.
#pragma once
#include "cuda/call.cuh"
#include "cuda/peers.cuh"

namespace gw::cuda {

class CodedUnits {
 protected:
  GW_DEVICE CodedUnits(const gw_cuda_exchange& e, uint32_t rank, uint64_t key) : e_(e), rank_(rank) {
    call_.block = e.codec.block;
    call_.values = e.codec.values;
    call_.dtype = static_cast<DType>(e.dtype);
    call_.key = key;
  }

  GW_DEVICE void begin(const gw_cuda_unit& u) {
    call_.array = static_cast<uint8_t*>(e_.array[rank_]) + u.at * width_of(e_.dtype);
    float* residual = e_.residual[rank_];
    call_.loss = residual ? residual + u.at : nullptr;
    call_.count = u.count;
    call_.first = u.at;
  }

  // Byte `at` of the frame that the unit writes; null: it writes none.
  GW_DEVICE uint8_t* slot_of(const gw_cuda_unit& u, size_t at) const {
    return u.slot == GW_NO_PLACE ? nullptr : e_.frames[rank_] + u.slot + at;
  }
  // The frame that holds source i; null: it is this rank's own value, in its array.
  GW_DEVICE const uint8_t* frame_of(const gw_cuda_unit& u, const Sources& sources, uint32_t i) const {
    return u.kind == GW_UNIT_SEND ? nullptr
           : sources.at[i]        ? sources.at[i]
           : u.own != GW_NO_PLACE ? e_.frames[rank_] + u.own
                                  : nullptr;
  }
  GW_DEVICE void own_value(const gw_cuda_unit& u, size_t at, float (&v)[kValues]) const {
    load(call_.dtype, call_.array, at, call_.count, v);
    if ((u.flags & GW_UNIT_FROM_INPUT) || halves())
      add_owed(GW_RESIDUAL_FP32, call_.loss, at, call_.count, v);
  }
  GW_DEVICE bool scales(const gw_cuda_unit& u) const {
    return u.kind == GW_UNIT_REDUCE && (u.flags & GW_UNIT_COMPLETE) && e_.scale != 1.0f;
  }
  // What is lost of an average weighs as much as in the sum.
  GW_DEVICE void put_lost(size_t at, float (&lost)[kValues], bool of_average) const {
    if (of_average)
      for (int k = 0; k < kValues; ++k) lost[k] *= static_cast<float>(e_.ranks);
    put_loss(GW_RESIDUAL_FP32, call_.loss, at, call_.count, lost);
  }
  // What a fold that encodes nothing leaves owed.
  GW_DEVICE void settle(const gw_cuda_unit& u, size_t at, const float (&acc)[kValues]) const {
    float owes[kValues] = {};
    if (halves() && !(u.flags & GW_UNIT_COMPLETE)) {
      for (int k = 0; k < kValues; ++k) owes[k] = acc[k];
      round_to_array(owes);
      for (int k = 0; k < kValues; ++k) owes[k] = acc[k] - owes[k];
    } else if (!(u.flags & GW_UNIT_FROM_INPUT) || u.own != GW_NO_PLACE) {
      return;
    }
    put_loss(GW_RESIDUAL_FP32, call_.loss, at, call_.count, owes);
  }
  GW_DEVICE void round_to_array(float (&v)[kValues]) const {
    for (int k = 0; k < kValues; ++k) {
      if (call_.dtype == DType::bf16) v[k] = widen(narrow_to(v[k], bf16_t{}));
      if (call_.dtype == DType::f16) v[k] = widen(narrow_to(v[k], f16_t{}));
    }
  }
  GW_DEVICE bool halves() const { return call_.dtype != DType::f32; }

  const gw_cuda_exchange& e_;
  const uint32_t rank_;
  CodeCall call_{};
};

}  // namespace gw::cuda
