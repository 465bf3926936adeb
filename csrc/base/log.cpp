#include "base/log.hpp"

#include <mutex>

namespace gw {
namespace {
struct Sink {
  std::mutex mutex;
  LogSink fn;
};
Sink& sink() {  // never destroyed: native threads may log while the process exits
  static Sink* s = new Sink;
  return *s;
}
}  // namespace

void set_log_sink(LogSink fn) {
  std::lock_guard lock(sink().mutex);
  sink().fn = std::move(fn);
}

void log(LogLevel level, const std::string& line) {
  LogSink fn;
  {
    std::lock_guard lock(sink().mutex);
    fn = sink().fn;
  }
  if (fn) fn(level, line);
}

}  // namespace gw
