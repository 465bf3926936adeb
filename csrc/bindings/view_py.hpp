// The one place where native code learns what an array is: NumPy, torch (CPU), DLPack, buffer protocol -> View.
#pragma once
#include <pybind11/pybind11.h>

#include <string_view>

#include "base/view.hpp"

namespace gw {

// Borrows the memory of `array`: the caller keeps the object alive while the View is used. Needs the GIL.
// Throws Error(argument) saying what is wrong and the remedy: not an array, not contiguous, read-only (if `writable`),
// not on the CPU, foreign byte order, or a dtype that gradwire does not know.
View view_of(pybind11::handle array, bool writable);

// The same for host and GPU memory: the view says which. On a GPU its stream is the caller's current one.
View any_view_of(pybind11::handle x, bool writable);

// Both throw Error(argument).
DType dtype_named(std::string_view name);
void check_count(const char* what, size_t expected, size_t got);  // of elements

}  // namespace gw
