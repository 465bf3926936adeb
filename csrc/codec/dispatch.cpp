// Which instruction set runs: the best this CPU and this build have, unless a test asks for another.
#include <atomic>
#include <string>

#include "base/error.hpp"
#include "codec/isa.hpp"

namespace gw {
namespace {

struct Choice {
  std::string_view isa;
  const IsaTable& (*table)();
  bool (*runs_here)();
};

// Best first; the last one runs everywhere.
const Choice kChoices[] = {
#if defined(__x86_64__)
    {"avx512", isa_table_avx512,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") != 0;
     }},
    {"avx2", isa_table_avx2,
     [] {
       return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
              __builtin_cpu_supports("f16c") != 0;
     }},
    {"portable", isa_table_portable, [] { return true; }},
#elif defined(__aarch64__)
    {"neon", isa_table_neon, [] { return true; }},
#else
    {"portable", isa_table_portable, [] { return true; }},
#endif
};

const IsaTable& best() {
  for (const Choice& c : kChoices)
    if (c.runs_here()) return c.table();
  fail_kernel("no instruction set fits");
}

std::atomic<const IsaTable*>& in_use() {
  static std::atomic<const IsaTable*> table{&best()};
  return table;
}

}  // namespace

const IsaTable& isa_table() { return *in_use().load(std::memory_order_relaxed); }

const IsaTable* isa_table_for(std::string_view isa) {
  for (const Choice& c : kChoices)
    if (c.isa == isa && c.runs_here()) return &c.table();
  return nullptr;
}

std::vector<std::string_view> isas() {
  std::vector<std::string_view> out;
  for (const Choice& c : kChoices)
    if (c.runs_here()) out.push_back(c.isa);
  return out;
}

void use_isa(std::string_view isa) {
  const IsaTable* table = isa_table_for(isa);
  if (!table) {
    std::string known;
    for (auto i : isas()) known.append(known.empty() ? "" : ", ").append(i);
    fail_argument("instruction set \"" + std::string(isa) + "\" cannot run here; possible: " + known);
  }
  in_use().store(table, std::memory_order_relaxed);
}

const Kernels& kernels() { return isa_table().kernels; }

const Kernels* kernels_for(const char* isa) {
  const IsaTable* table = isa_table_for(isa);
  return table ? &table->kernels : nullptr;
}

void fail_kernel(const char* what) { throw Error(ErrorKind::internal, std::string("gradwire bug: ") + what); }

void fail_payload(const char* what, size_t at_element) {
  throw Error(ErrorKind::frame, std::string("malformed payload: ") + what +
                                    " (block that starts at element " + std::to_string(at_element) +
                                    "); the frame was damaged or is not a gradwire frame");
}

void fail_truncated(size_t expected, size_t got) {
  throw Error(ErrorKind::frame, "malformed payload: expected " + std::to_string(expected) + " bytes, got " +
                                    std::to_string(got));
}

}  // namespace gw
