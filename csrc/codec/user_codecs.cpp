#include "codec/user_codecs.hpp"

#include <algorithm>
#include <mutex>

#include "base/error.hpp"
#include "codec/registry.hpp"

namespace gw {
namespace {

struct Users {
  std::mutex mutex;
  std::vector<CodecPtr> codecs;
};
// Leaked on purpose: what a codec calls may be gone when statics are destroyed.
Users& users() {
  static auto* all = new Users;
  return *all;
}

template <class Wanted>
CodecPtr find(Wanted wanted) {
  std::lock_guard lock(users().mutex);
  const auto it = std::ranges::find_if(users().codecs, wanted);
  return it == users().codecs.end() ? nullptr : *it;
}

}  // namespace

uint32_t user_codec_hash(const std::string& name, size_t block, const std::vector<size_t>& sizes) {
  uint32_t hash = 2166136261u;
  const auto mix = [&hash](uint8_t byte) { hash = (hash ^ byte) * 16777619u; };
  const auto mix_number = [&mix](size_t v) {
    for (int i = 0; i < 8; ++i) mix(static_cast<uint8_t>(v >> (8 * i)));
  };
  for (char c : name) mix(static_cast<uint8_t>(c));
  mix_number(block);
  for (size_t s : sizes) mix_number(s);
  return hash;
}

void add_user_codec(const CodecPtr& codec) {
  if (std::ranges::count(listed_codec_names(), codec->name()))
    fail_argument("\"" + codec->name() + "\" is the name of a codec of gradwire's own: choose another");
  const CodecPtr clash = user_codec_from_wire(codec->wire_params());
  if (clash && clash->name() != codec->name())
    fail_argument("codec names \"" + codec->name() + "\" and \"" + clash->name() +
                  "\" have the same 32-bit hash: rename one of them");
  std::lock_guard lock(users().mutex);
  for (CodecPtr& known : users().codecs)
    if (known->name() == codec->name()) {
      known = codec;
      return;
    }
  users().codecs.push_back(codec);
}

std::vector<std::string> user_codec_names() {
  std::lock_guard lock(users().mutex);
  std::vector<std::string> names;
  for (const CodecPtr& c : users().codecs) names.push_back(c->name());
  return names;
}

CodecPtr find_user_codec(const std::string& name) {
  return find([&](const CodecPtr& c) { return c->name() == name; });
}

CodecPtr user_codec_from_wire(uint32_t wire_params) {
  return find([&](const CodecPtr& c) { return c->wire_params() == wire_params; });
}

}  // namespace gw
