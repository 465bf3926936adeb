// What ranks tell one another out of band. Fixed-size plain data; unpack() trusts nothing.
#pragma once
#include <optional>
#include <string>

#include "base/error.hpp"
#include "transport/transport.hpp"

namespace gw {

enum class NoticeType : uint8_t {
  abort = 1,   // the sender gave up; `error` says why: everyone fails with the same cause
  query = 2,   // are you there? `nonce` comes back
  status = 3,  // yes; in operation `seq`, waiting for `waiting_for` (-1: for nobody)
};

struct Notice {
  NoticeType type = NoticeType::query;
  uint32_t epoch = 0;
  uint32_t nonce = 0;
  uint64_t seq = 0;
  int waiting_for = -1;
  // abort only
  ErrorKind kind = ErrorKind::internal;
  ErrorContext context{};
  std::string text{};  // cut to what fits
};

ControlMessage pack(const Notice& notice);
// Empty if the bytes are not a notice.
std::optional<Notice> unpack(const ControlMessage& message);

}  // namespace gw
