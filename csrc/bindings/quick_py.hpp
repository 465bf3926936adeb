// The short way into an all_reduce, and what it shares with the long one (comm_py.cpp).
#pragma once
#include <pybind11/pybind11.h>

#include "comm/communicator.hpp"

namespace gw {

// A callable (x, op, codec, below) that sums in place with all defaults and returns true, if codec is None, or "auto" and
// x has less than `below` bytes. Otherwise it does nothing and returns false. It keeps the communicator alive.
pybind11::object quick_all_reduce_of(pybind11::object communicator);

ReduceOp reduce_op(pybind11::handle text);  // throws Error(argument)

}  // namespace gw
