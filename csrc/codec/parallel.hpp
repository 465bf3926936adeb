// Large stand-alone arrays on several threads. The result does not depend on how many: arrays are cut at blocks, and a
// codec is told where its elements stand.
#pragma once
#include <algorithm>
#include <cstddef>
#include <exception>
#include <thread>
#include <vector>

namespace gw {

// Below this a second thread costs more than it saves: starting one takes 20 to 50 us (2 cores, 2026-11), and so does
// encoding 512 KiB.
inline constexpr size_t kThreadElements = size_t{128} << 10;

// f(at, count) over [0, count) in up to `threads` stretches, cut at multiples of `align`: the first on the caller's thread,
// the others on threads of their own. Returns when all are done, or throws what the first of them threw.
template <class F>
void in_parallel(size_t count, size_t align, int threads, F f) {
  const size_t most = std::max<size_t>(1, count / std::max(kThreadElements, align));
  const size_t parts = std::min(static_cast<size_t>(std::max(threads, 1)), most);
  const size_t stretch = ((count + parts - 1) / parts + align - 1) / align * align;
  std::vector<std::exception_ptr> errors(parts);
  const auto part = [&](size_t i) {
    const size_t at = std::min(i * stretch, count);
    try {
      f(at, std::min(stretch, count - at));
    } catch (...) {
      errors[i] = std::current_exception();
    }
  };
  std::vector<std::jthread> helpers;
  helpers.reserve(parts - 1);
  for (size_t i = 1; i < parts; ++i) helpers.emplace_back(part, i);
  part(0);
  helpers.clear();  // joins
  for (const auto& e : errors)
    if (e) std::rethrow_exception(e);
}

}  // namespace gw
