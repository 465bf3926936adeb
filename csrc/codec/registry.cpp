// The codecs of THE LIST by name and by wire id. Only parameters are handled here; loops come from the instruction
// set in use.
#include "codec/registry.hpp"

#include <cstring>
#include <type_traits>

#include "codec/codecs.hpp"

namespace gw {
namespace {

struct Entry {
  const char* name = nullptr;  // null: no codec of this id
  bool lossy = false;
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
    r.entries[Id] = {C::kName, C::kLossy, C::shape, C::pack, C::unpack, C::arguments, C::encoded_bytes};
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
  size_t encoded_bytes(size_t count) const override { return entry_.encoded_bytes(shape_, count); }

  void encode(const float* x, size_t count, std::byte* payload, float* loss) const override {
    loops().encode(shape_, x, count, payload, loss);
  }
  void decode(const std::byte* payload, size_t count, float* out) const override {
    loops().decode(shape_, payload, count, out);
  }
  void decode_add(const std::byte* payload, size_t count, float* acc) const override {
    loops().decode_add(shape_, payload, count, acc);
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

}  // namespace

std::vector<std::string> codec_names() {
  std::vector<std::string> names;
  for (const Entry& e : registry().entries)
    if (e.name) names.emplace_back(e.name);
  return names;
}

CodecPtr make_codec(const std::string& name, const CodecParams& params) {
  for (int id = 0; id < kCodecIds; ++id) {
    const Entry& e = registry().entries[id];
    if (e.name && name == e.name)
      return std::make_shared<ListedCodec>(static_cast<uint8_t>(id), e.shape(params));
  }
  fail_argument("unknown codec \"" + name + "\"; known: " + known_codecs());
}

CodecPtr codec_from_wire(uint8_t id, uint32_t wire_params) {
  const auto fail = [](const std::string& m) { throw Error(ErrorKind::frame, m); };
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
