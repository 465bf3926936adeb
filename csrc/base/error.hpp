// One exception class with a kind; each kind is one Python exception type (src/gradwire/errors.py).
// Callers never match text: everything a program may want to know is in the fields.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>

namespace gw {

enum class ErrorKind : uint8_t {
  argument = 1,  // bad input; nothing was sent; the communicator stays usable
  mismatch,      // ranks called different operations; the message prints both sides
  timeout,       // a deadline passed; `peer` is the rank that did not answer
  peer_lost,     // `peer` died or closed its communicator while it was needed
  aborted,       // abort() was called, here or on `peer`
  frame,         // malformed or foreign bytes
  rendezvous,    // peers could not find or connect to one another
  closed,        // the communicator was closed before
  internal,      // an invariant of ours broke: a bug
  codec,         // a registered codec raised, or broke its contract
  gpu,           // no plug-in, driver or GPU, or CUDA reported an error
};
inline constexpr ErrorKind kLastErrorKind = ErrorKind::gpu;

// Where it happened. -1 / empty: does not apply. `peer` and `host` name the culprit, not the reporter.
struct ErrorContext {
  int rank = -1;
  int peer = -1;
  std::string host{};
  std::string op{};  // "all_reduce"
  uint64_t seq = 0;
  int step = -1;  // index into the schedule's steps
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message, ErrorContext context = {})
      : std::runtime_error(message), kind_(kind), context_(std::move(context)) {}
  ErrorKind kind() const { return kind_; }
  const ErrorContext& context() const { return context_; }

 private:
  ErrorKind kind_;
  ErrorContext context_;
};

[[noreturn]] inline void fail_argument(const std::string& message) {
  throw Error(ErrorKind::argument, message);
}
// For invariants of our own; never for anything a caller or a peer can cause.
inline void check_internal(bool ok, const char* what) {
  if (!ok) throw Error(ErrorKind::internal, std::string("gradwire bug: ") + what);
}

}  // namespace gw
