#include "schedule/select.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/error.hpp"
#include "schedule/load.hpp"

namespace gw {
namespace {

// Direct encodes twice whatever the number of ranks; more than that is an error that grows with the group. The same for
// 16-bit sums of sums: two of them are a host's and that over hosts.
constexpr int kMostLossyEncodes = 2;
constexpr int kMostRoundings = 2;

// Why the algorithm is not taken whatever it costs; empty: it may be.
std::string refusal(const Schedule& s, const Question& q) {
  if (q.size == 1) return "";
  if (q.lossy && s.lossy_encodes > kMostLossyEncodes)
    return "re-encodes " + std::to_string(s.lossy_encodes - 1) + " times: error grows; ask for it by name";
  if (q.lossy && s.lossy_encodes == 0 && s.collective != Collective::barrier)
    return "makes no use of the codec; ask for it by name";
  if (q.size_invariant && s.nested_sums > 1) return "its order of sums depends on the size";
  if (q.size_invariant && q.lossy && s.lossy_encodes > 1)
    return "whose value is not encoded, the owner's, depends on the size";
  if (q.rounding && s.nested_sums > kMostRoundings)
    return "rounds 16-bit sums " + std::to_string(s.nested_sums) + " times: error grows; ask for it by name";
  return "";
}

std::string duration(double seconds) {
  char text[32];
  if (seconds < 1e-3)
    std::snprintf(text, sizeof text, "%.1f us", seconds * 1e6);
  else
    std::snprintf(text, sizeof text, "%.2f ms", seconds * 1e3);
  return text;
}

double corrected(double seconds, std::string_view algorithm, const Question& q) {
  const auto bytes = static_cast<double>(q.raw_bytes);
  const double plain = q.plain_trials ? correction(*q.plain_trials, algorithm, bytes) : 1;
  return seconds * (q.trials ? correction(*q.trials, algorithm, bytes, plain) : plain);
}

Candidate price(const Algorithm& a, const Question& q) {
  Load load;  // of the busiest rank
  Schedule sample;
  for (const Schedule& s : sample_ranks(a.name, q)) {
    const Load one = load_of(s, coded(q));
    load.rounds = std::max(load.rounds, one.rounds);
    load.sent = std::max(load.sent, one.sent);
    sample = s;
  }
  Candidate c;
  c.algorithm = a.name;
  c.seconds = corrected(estimate(a.name, q), a.name, q);
  c.rounds = load.rounds;
  c.lossy_encodes = sample.lossy_encodes;
  c.nested_sums = sample.nested_sums;
  c.reason = refusal(sample, q);
  c.valid = c.reason.empty();
  if (c.valid) {
    char text[96];
    std::snprintf(text, sizeof text, "%d x %s latency + %.2f x %s for the bytes", load.rounds,
                  duration(q.link.alpha_s + 2 * q.link.message_s).c_str(), load.sent,
                  duration(static_cast<double>(q.raw_bytes) * q.wire_ratio *
                           (q.link.beta_s_per_byte + q.link.touch_s_per_byte))
                      .c_str());
    c.reason = text;
  }
  return c;
}

}  // namespace

double correction(const std::vector<Trial>& trials, std::string_view algorithm, double raw_bytes,
                  double otherwise) {
  const Trial *below = nullptr, *above = nullptr;
  for (const Trial& t : trials) {
    if (t.algorithm != algorithm) continue;
    if (t.raw_bytes <= raw_bytes && (!below || t.raw_bytes > below->raw_bytes)) below = &t;
    if (t.raw_bytes >= raw_bytes && (!above || t.raw_bytes < above->raw_bytes)) above = &t;
  }
  if (!below && !above) return otherwise;
  if (!below || !above || below->raw_bytes == above->raw_bytes) return (below ? below : above)->factor;
  const double place = std::log(raw_bytes / below->raw_bytes) / std::log(above->raw_bytes / below->raw_bytes);
  return below->factor * std::pow(above->factor / below->factor, place);
}

Choice select(const Question& q) {
  if (q.size < 1) fail_argument("size is " + std::to_string(q.size) + "; a group has at least one rank");
  Choice choice;
  for (const Algorithm& a : algorithms())
    if (a.supports(q.collective, q.size)) choice.candidates.push_back(price(a, q));
  if (choice.candidates.empty())
    fail_argument("no algorithm supports " + std::string(name(q.collective)) + " of " +
                  std::to_string(q.size) + " ranks");
  std::vector<Candidate> listed = choice.candidates;
  // stable: where prices are equal the order of algorithms.def decides, the same on every rank
  std::ranges::stable_sort(choice.candidates, [](const Candidate& a, const Candidate& b) {
    return a.valid != b.valid ? a.valid : a.seconds < b.seconds;
  });
  // Nothing valid: a lossy sum by the least bad algorithm is still what was asked for.
  const Candidate& taken = choice.candidates.front();
  const double most_s = taken.seconds * (1 + q.tolerance);
  const auto loses_less = [&](const Candidate& a, const Candidate& b) {
    return q.lossy && a.lossy_encodes < b.lossy_encodes;
  };
  std::erase_if(listed, [&](const Candidate& c) { return c.valid != taken.valid || c.seconds > most_s; });
  choice.algorithm = std::ranges::min_element(listed, loses_less)->algorithm;
  return choice;
}

std::string Choice::explain() const {
  std::string text = "chosen: " + algorithm + "\n";
  char line[256];
  std::snprintf(line, sizeof line, "  %-18s %12s %7s %7s  %s\n", "algorithm", "predicted", "rounds",
                "encodes", "why");
  text += line;
  for (const Candidate& c : candidates) {
    std::snprintf(line, sizeof line, "%c %-18s %12s %7d %7d  %s%s\n", c.algorithm == algorithm ? '*' : ' ',
                  c.algorithm.c_str(), duration(c.seconds).c_str(), c.rounds, c.lossy_encodes,
                  c.valid ? "" : "not taken: ", c.reason.c_str());
    text += line;
  }
  return text;
}

}  // namespace gw
