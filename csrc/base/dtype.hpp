// Element types and reduction operators. Ids are part of the wire format: never reuse one.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace gw {

enum class DType : uint8_t { f32 = 1, f64 = 2, bf16 = 3, f16 = 4, i32 = 5, i64 = 6, u8 = 7 };
enum class ReduceOp : uint8_t { sum = 1, avg = 2, min = 3, max = 4, prod = 5 };

constexpr bool valid(DType d) { return d >= DType::f32 && d <= DType::u8; }
constexpr bool valid(ReduceOp o) { return o >= ReduceOp::sum && o <= ReduceOp::prod; }

constexpr size_t size_of(DType d) {
  switch (d) {
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
    case DType::f16:
      return 2;
    case DType::u8:
      return 1;
  }
  return 0;
}
constexpr bool is_float(DType d) { return d >= DType::f32 && d <= DType::f16; }

constexpr std::string_view name(DType d) {
  constexpr std::string_view kNames[] = {"?",       "float32", "float64", "bfloat16",
                                         "float16", "int32",   "int64",   "uint8"};
  return valid(d) ? kNames[static_cast<int>(d)] : kNames[0];
}
constexpr std::string_view name(ReduceOp o) {
  constexpr std::string_view kNames[] = {"?", "sum", "avg", "min", "max", "prod"};
  return valid(o) ? kNames[static_cast<int>(o)] : kNames[0];
}

}  // namespace gw
