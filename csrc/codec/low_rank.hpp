// The arithmetic of PowerSGD (Vogels, Karimireddy, Jaggi: PowerSGD, NeurIPS 2019): a matrix M [rows, cols], row-major,
// is approximated by P Q^T with P [rows, rank] and Q [cols, rank]. Factors are stored column by column (P as
// [rank][rows], Q as [rank][cols]), so that every loop is contiguous.
//
// Every rank computes the approximation itself, from factors that an all-reduce made equal, so the loops must give the
// same bits on every machine: sums run in a written order, in 16 lanes where one order alone would be slow, without
// contraction. A matrix library promises none of that.
#pragma once
#include "codec/simd.hpp"

namespace gw::GW_ISA {

inline constexpr size_t kLanes16 = 16;

// Lane l sums the elements l, l + 16, ...; the lanes are then added in halves: 0 + 8, 0 + 4, ...
template <class T>
GW_INLINE T fold_lanes(T* lanes) {
  for (size_t width = kLanes16 / 2; width > 0; width /= 2)
    for (size_t l = 0; l < width; ++l) lanes[l] += lanes[l + width];
  return lanes[0];
}

template <size_t R>
static void project_columns(const float* m, size_t rows, size_t cols, const float* q, float* p) {
  const size_t whole = cols / kLanes16 * kLanes16;
  for (size_t i = 0; i < rows; ++i, m += cols) {
    float sum[R][kLanes16] = {};
    for (size_t c = 0; c < whole; c += kLanes16)
      for (size_t r = 0; r < R; ++r)
        for (size_t l = 0; l < kLanes16; ++l) sum[r][l] += m[c + l] * q[r * cols + c + l];
    for (size_t c = whole; c < cols; ++c)
      for (size_t r = 0; r < R; ++r) sum[r][c - whole] += m[c] * q[r * cols + c];
    for (size_t r = 0; r < R; ++r) p[r * rows + i] = fold_lanes(sum[r]);
  }
}

// P = M Q.
static void low_rank_project(const float* m, size_t rows, size_t cols, size_t rank, const float* q,
                             float* p) {
  size_t r = 0;
  for (; r + 4 <= rank; r += 4) project_columns<4>(m, rows, cols, q + r * cols, p + r * rows);
  for (; r + 2 <= rank; r += 2) project_columns<2>(m, rows, cols, q + r * cols, p + r * rows);
  for (; r < rank; ++r) project_columns<1>(m, rows, cols, q + r * cols, p + r * rows);
}

// Q = M^T P, rows added in ascending order, four at a time to read Q a quarter as often.
static void low_rank_back_project(const float* m, size_t rows, size_t cols, size_t rank, const float* p,
                                  float* q) {
  __builtin_memset(q, 0, rank * cols * sizeof(float));
  size_t i = 0;
  for (; i + 4 <= rows; i += 4) {
    const float *a = m + i * cols, *b = a + cols, *c = b + cols, *d = c + cols;
    for (size_t r = 0; r < rank; ++r) {
      const float* f = p + r * rows + i;
      const float fa = f[0], fb = f[1], fc = f[2], fd = f[3];
      float* to = q + r * cols;
      GW_IVDEP
      for (size_t j = 0; j < cols; ++j) to[j] = (((to[j] + a[j] * fa) + b[j] * fb) + c[j] * fc) + d[j] * fd;
    }
  }
  for (; i < rows; ++i)
    for (size_t r = 0; r < rank; ++r) {
      const float f = p[r * rows + i];
      float* to = q + r * cols;
      GW_IVDEP
      for (size_t j = 0; j < cols; ++j) to[j] += m[i * cols + j] * f;
    }
}

// out = P Q^T, summed over the rank in ascending order. Unless m is null: m becomes m - out, or 0 where that is not
// finite.
static void low_rank_restore(const float* p, const float* q, size_t rows, size_t cols, size_t rank, float* m,
                             float* out) {
  constexpr size_t kTile = 512;
  for (size_t i = 0; i < rows; ++i)
    for (size_t at = 0; at < cols; at += kTile) {
      const size_t n = min_of(kTile, cols - at);
      float* to = out + i * cols + at;
      const float first = p[i];
      GW_IVDEP
      for (size_t j = 0; j < n; ++j) to[j] = q[at + j] * first;
      for (size_t r = 1; r < rank; ++r) {
        const float f = p[r * rows + i];
        const float* from = q + r * cols + at;
        GW_IVDEP
        for (size_t j = 0; j < n; ++j) to[j] += from[j] * f;
      }
      if (!m) continue;
      float* left = m + i * cols + at;
      GW_IVDEP
      for (size_t j = 0; j < n; ++j) left[j] = finite_or_zero(left[j] - to[j]);
    }
}

static double dot(const float* a, const float* b, size_t count) {
  double lanes[kLanes16] = {};
  const size_t whole = count / kLanes16 * kLanes16;
  for (size_t i = 0; i < whole; i += kLanes16)
    for (size_t l = 0; l < kLanes16; ++l)
      lanes[l] += static_cast<double>(a[i + l]) * static_cast<double>(b[i + l]);
  for (size_t i = whole; i < count; ++i)
    lanes[i - whole] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return fold_lanes(lanes);
}

// Orthonormal columns by the modified Gram-Schmidt rule, each column cleaned twice (Giraud et al. 2005: twice is
// enough). A column that depends on those before it, or is 0, becomes 0. Returns how many columns are not 0; all of P
// becomes NaN, and the answer 0, if it held a value that is not finite.
static size_t orthonormalize(float* p, size_t rows, size_t rank) {
  size_t independent = 0;
  uint32_t largest = 0;
  for (size_t i = 0; i < rank * rows; ++i) largest = max_of(largest, magnitude(p[i]));
  if (largest >= kInfBits) {
    for (size_t i = 0; i < rank * rows; ++i) p[i] = float_of(0x7fc00000u);
    return 0;
  }
  for (size_t r = 0; r < rank; ++r) {
    float* v = p + r * rows;
    const double before = __builtin_sqrt(dot(v, v, rows));
    for (int pass = 0; pass < 2; ++pass)
      for (size_t s = 0; s < r; ++s) {
        const float* u = p + s * rows;
        const double c = dot(u, v, rows);
        GW_IVDEP
        for (size_t i = 0; i < rows; ++i)
          v[i] = static_cast<float>(static_cast<double>(v[i]) - c * static_cast<double>(u[i]));
      }
    const double norm = __builtin_sqrt(dot(v, v, rows));
    // what is left of a dependent column is the rounding error of its subtraction
    const bool keep = norm > before * 0x1p-18 && norm > 0;
    independent += keep;
    const double inverse = keep ? 1.0 / norm : 0.0;
    GW_IVDEP
    for (size_t i = 0; i < rows; ++i) v[i] = static_cast<float>(static_cast<double>(v[i]) * inverse);
  }
  return independent;
}

}  // namespace gw::GW_ISA
