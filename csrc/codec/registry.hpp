// The list of codecs as data, for bindings, tests and benchmarks.
#pragma once
#include <string>
#include <vector>

#include "codec/codec.hpp"

namespace gw {

std::vector<std::string> codec_names();  // in the order of their wire ids

}  // namespace gw
