// The list of codecs as data, for bindings, tests and benchmarks.
#pragma once
#include <string>
#include <vector>

#include "codec/codec.hpp"

namespace gw {

std::vector<std::string> listed_codec_names();  // THE LIST, in the order of the wire ids
std::vector<std::string> codec_names();         // then those of user_codecs.hpp

}  // namespace gw
