// The list of codecs as data, for bindings, tests and benchmarks.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "codec/codec.hpp"
#include "codec/isa.hpp"

namespace gw {

std::vector<std::string> listed_codec_names();  // THE LIST, in the order of the wire ids
std::vector<std::string> codec_names();         // then those of user_codecs.hpp
// What the loops of a codec need, for loops elsewhere. Nothing for one of user_codecs.hpp.
std::optional<CodecShape> shape_of(const Codec& codec);

}  // namespace gw
