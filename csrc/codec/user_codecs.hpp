// Codecs that a program brings along at run time, beside THE LIST. All share one wire id; the header's params hold a
// hash of name and sizes, so ranks that registered different codecs get a mismatch, not garbage.
#pragma once
#include <string>
#include <vector>

#include "codec/codec.hpp"

namespace gw {

inline constexpr uint8_t kUserCodec = 255;

// What a header's params hold: FNV-1a of the name, the block and the payload's sizes.
uint32_t user_codec_hash(const std::string& name, size_t block, const std::vector<size_t>& sizes);

// Makes it known under its name, for the rest of the process; one of the same name is replaced, and lives on where it
// is in use. Throws Error(argument) if the name is one of THE LIST's or the hash one of another name's. Thread-safe.
void add_user_codec(const CodecPtr& codec);
std::vector<std::string> user_codec_names();          // in the order in which they came
CodecPtr find_user_codec(const std::string& name);    // null: none
CodecPtr user_codec_from_wire(uint32_t wire_params);  // null: none

}  // namespace gw
