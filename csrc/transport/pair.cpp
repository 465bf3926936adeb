#include "transport/pair.hpp"

namespace gw {

#define GW_TRANSPORT(name, file, summary)  \
  std::string name##_refusal(const Pair&); \
  int name##_sockets(const Pair&);         \
  std::unique_ptr<LinkChannel> open_##name(Pair&, int lane);
#include "transport/transports.def"
#undef GW_TRANSPORT

const std::vector<TransportKind>& transport_kinds() {
  static const std::vector<TransportKind> kinds = {
#define GW_TRANSPORT(name, file, summary) \
  {#name, file, summary, &name##_refusal, &name##_sockets, &open_##name},
#include "transport/transports.def"
#undef GW_TRANSPORT
  };
  return kinds;
}

uint32_t usable_kinds(const Pair& pair) {
  uint32_t usable = 0, bit = 1;
  for (const TransportKind& kind : transport_kinds()) {
    const bool allowed = pair.mine.transport == "auto" || pair.mine.transport == kind.name;
    if (allowed && kind.refusal(pair).empty()) usable |= bit;
    bit <<= 1;
  }
  return usable;
}

const TransportKind* choose_kind(uint32_t mine, uint32_t theirs) {
  uint32_t bit = 1;
  for (const TransportKind& kind : transport_kinds()) {
    if (mine & theirs & bit) return &kind;
    bit <<= 1;
  }
  return nullptr;
}

std::string refusals(const Pair& pair) {
  std::string text;
  for (const TransportKind& kind : transport_kinds()) {
    std::string why = kind.refusal(pair);
    if (pair.mine.transport != "auto" && pair.mine.transport != kind.name)
      why = "not allowed by GRADWIRE_TRANSPORT=" + pair.mine.transport;
    if (!why.empty()) text += (text.empty() ? "" : "; ") + std::string(kind.name) + ": " + why;
  }
  return text;
}

}  // namespace gw
