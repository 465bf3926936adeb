// The library never prints: it hands lines to one callback, set by the Python front (logging) or a test.
#pragma once
#include <functional>
#include <string>

namespace gw {

enum class LogLevel : int { debug = 10, info = 20, warning = 30 };
using LogSink = std::function<void(LogLevel, const std::string&)>;

void set_log_sink(LogSink sink);  // thread-safe; an empty function silences
void log(LogLevel level, const std::string& line);

}  // namespace gw
