#include "codec/walsh.hpp"

#include <cmath>
#include <cstring>

namespace gw {

void walsh_hadamard(const float* x, size_t count, size_t block, float* out) {
  if (out != x && count) std::memcpy(out, x, count * sizeof(float));
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(block)));
  for (float* v = out; v < out + count; v += block) {
    for (size_t h = 1; h < block; h *= 2)
      for (size_t i = 0; i < block; i += 2 * h)
        for (size_t j = i; j < i + h; ++j) {
          const float a = v[j], b = v[j + h];
          v[j] = a + b;
          v[j + h] = a - b;
        }
    for (size_t j = 0; j < block; ++j) v[j] *= scale;
  }
}

}  // namespace gw
