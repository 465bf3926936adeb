// The codecs of THE LIST by name and by wire id. Only parameters are handled here; loops come from the instruction
// set in use.
#include "codec/registry.hpp"

#include <cstring>
#include <type_traits>

#include "codec/codecs.hpp"
#include "codec/user_codecs.hpp"

namespace gw {
namespace {

struct Entry {
  const char* name = nullptr;  // null: no codec of this id
  const char* parameters = nullptr;
  bool lossy = false;
  bool fixed_size = true;
  CodecShape (*shape)(const CodecParams&) = nullptr;
  uint32_t (*pack)(const CodecShape&) = nullptr;
  bool (*unpack)(uint32_t, CodecShape&) = nullptr;
  std::string (*arguments)(const CodecShape&) = nullptr;
  size_t (*encoded_bytes)(const CodecShape&, size_t) = nullptr;
};

struct Registry {
  Entry entries[kCodecIds];
};

template <int Id>
void fill(Registry& r) {
  using C = typename GW_ISA::CodecOf<Id>::type;
  if constexpr (!std::is_same_v<C, GW_ISA::NoCodec>)
    r.entries[Id] = {C::kName, C::kParameters, C::kLossy,    GW_ISA::kFixedSize<C>, C::shape,
                     C::pack,  C::unpack,      C::arguments, C::encoded_bytes};
  if constexpr (Id + 1 < kCodecIds) fill<Id + 1>(r);
}

const Registry& registry() {
  static const Registry r = [] {
    Registry made;
    fill<0>(made);
    return made;
  }();
  return r;
}

class ListedCodec final : public Codec {
 public:
  ListedCodec(uint8_t id, const CodecShape& shape)
      : id_(id), shape_(shape), entry_(registry().entries[id]), name_(entry_.name) {}

  uint8_t id() const override { return id_; }
  uint32_t wire_params() const override { return entry_.pack(shape_); }
  const std::string& name() const override { return name_; }
  std::string description() const override {
    const std::string a = entry_.arguments(shape_);
    return a.empty() ? name_ : name_ + "(" + a + ")";
  }
  bool lossy() const override { return entry_.lossy; }
  size_t block() const override { return shape_.block; }
  bool fixed_size() const override { return entry_.fixed_size; }
  size_t encoded_bytes(size_t count) const override { return entry_.encoded_bytes(shape_, count); }

  size_t encode(const float* x, const float* owed, const Piece& piece, std::byte* payload,
                float* loss) const override {
    return loops().encode(shape_, x, owed, piece, payload, loss);
  }
  size_t decode(const std::byte* payload, size_t bytes, const Piece& piece, float* out) const override {
    return loops().decode(shape_, payload, bytes, piece, out);
  }
  size_t decode_add(const std::byte* payload, size_t bytes, const Piece& piece, float* acc) const override {
    return loops().decode_add(shape_, payload, bytes, piece, acc);
  }

 private:
  const CodecLoops& loops() const { return isa_table().codecs[id_]; }

  const uint8_t id_;
  const CodecShape shape_;
  const Entry& entry_;
  const std::string name_;
};

std::string known_codecs() {
  std::string text;
  for (const auto& n : codec_names()) text.append(text.empty() ? "" : ", ").append(n);
  return text;
}

// Refuses what the codec does not take; the values are checked by its shape().
void check_taken(const Entry& e, const CodecParams& p) {
  const std::string_view taken = e.parameters;
  const auto refuse_if = [&](bool given, const char* parameter) {
    if (!given || taken.find(parameter) != taken.npos) return;
    fail_argument(std::string("codec ") + e.name + " has no parameter " + parameter + "; it takes " +
                  (taken.empty() ? "no parameters" : std::string(taken)));
  };
  refuse_if(p.block != 0, "block");
  refuse_if(p.ratio != 0, "ratio");
  refuse_if(!p.values.empty(), "values");
  refuse_if(!p.levels.empty(), "levels");
  refuse_if(!p.rounding.empty(), "rounding");
  refuse_if(!p.scale.empty(), "scale");
  refuse_if(p.seed != 0, "seed");
  if (p.seed < 0 || p.seed > 65535)
    fail_argument(std::string("codec ") + e.name + ": seed must be from 0 to 65535, got " +
                  std::to_string(p.seed));
}

}  // namespace

std::vector<std::string> listed_codec_names() {
  std::vector<std::string> names;
  for (const Entry& e : registry().entries)
    if (e.name) names.emplace_back(e.name);
  return names;
}

std::vector<std::string> codec_names() {
  auto names = listed_codec_names();
  for (auto& n : user_codec_names()) names.push_back(std::move(n));
  return names;
}

std::optional<CodecShape> shape_of(const Codec& codec) {
  if (codec.id() >= kCodecIds) return std::nullopt;
  CodecShape shape;
  registry().entries[codec.id()].unpack(codec.wire_params(), shape);
  return shape;
}

CodecPtr make_codec(const std::string& name, const CodecParams& params) {
  for (int id = 0; id < kCodecIds; ++id) {
    const Entry& e = registry().entries[id];
    if (!e.name || name != e.name) continue;
    check_taken(e, params);
    return std::make_shared<ListedCodec>(static_cast<uint8_t>(id), e.shape(params));
  }
  if (CodecPtr user = find_user_codec(name)) {
    if (params != CodecParams{}) fail_argument("codec " + name + " was registered: it takes no parameters");
    return user;
  }
  fail_argument("unknown codec \"" + name + "\"; known: " + known_codecs());
}

CodecPtr codec_from_wire(uint8_t id, uint32_t wire_params) {
  const auto fail = [](const std::string& m) { throw Error(ErrorKind::frame, m); };
  if (id == kUserCodec) {
    if (CodecPtr user = user_codec_from_wire(wire_params)) return user;
    fail("unknown codec id 255 (one that a program registered, hash " + std::to_string(wire_params) +
         "): call gradwire.register_codec with the same codec here first");
  }
  if (id >= kCodecIds || !registry().entries[id].name)
    fail("unknown codec id " + std::to_string(id) + "; this build knows " + known_codecs() +
         ": the frame is foreign or from a newer gradwire");
  const Entry& e = registry().entries[id];
  CodecShape shape;
  // packed again and compared: unused bits must be zero, so that one codec has one spelling
  if (!e.unpack(wire_params, shape) || e.pack(shape) != wire_params)
    fail(std::string("codec ") + e.name + ": parameters " + std::to_string(wire_params) +
         " are out of range");
  return std::make_shared<ListedCodec>(id, shape);
}

}  // namespace gw
