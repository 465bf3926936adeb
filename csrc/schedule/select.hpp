// Price every candidate, take the cheapest valid one, and be able to say why. Deterministic: every rank that asks
// with the same Question gets the same answer.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "schedule/schedule.hpp"

namespace gw {

// What a message of so many bytes costs on its way from one rank to another.
struct Link {
  double alpha_s;  // seconds a message is on its way however small
  double
      beta_s_per_byte;  // seconds per byte in which it keeps both ends' ports busy; 0: nothing but the cores limits it
  double message_s = 0;         // seconds of a core at either end, a message
  double touch_s_per_byte = 0;  // the same, a byte
  bool operator==(const Link&) const = default;
};

// What running it showed: an all_reduce of so many raw bytes took `factor` times its estimate.
struct Trial {
  std::string algorithm;
  double raw_bytes;
  double factor;
  bool operator==(const Trial&) const = default;
};

// By what an estimate is to be multiplied: between two trials of the algorithm the factors' logarithms are interpolated
// over that of the size, beyond the outermost the nearest holds. Without any: what `otherwise` says.
double correction(const std::vector<Trial>& trials, std::string_view algorithm, double raw_bytes,
                  double otherwise = 1);

struct Question {
  Collective collective = Collective::all_reduce;
  int size = 1;
  size_t raw_bytes = 0;   // of all chunks together (all_gather: of the gathered array)
  double wire_ratio = 1;  // encoded bytes / raw bytes
  bool lossy = false;     // a codec is to be used, and loses something
  bool rounding = false;  // 16-bit floats: a partial sum is rounded whenever it leaves its rank
  bool size_invariant =
      false;  // every element is summed in rank order and encoded equally often, whatever the size
  double gamma_s_per_byte = 0;                            // of a core: reducing one source, per raw byte
  double encode_s_per_byte = -1, decode_s_per_byte = -1;  // per raw byte; negative: as gamma
  size_t segment_bytes = size_t{128} << 10;
  Link link{};  // the slowest link between any two ranks
  Topology topology{};
  // Filled in where links differ. Ports are then those of a host, which its ranks share, and used between hosts only.
  std::vector<Link> links{};   // [from * size + to]; empty: `link` everywhere, a port for every rank
  std::vector<int> machine{};  // [size] ranks with one number share that machine's cores
  int cores = 0;               // of each machine; 0: one for every rank
  // Borrowed. With the codec in question; and without one, for algorithms that have not been tried with it.
  const std::vector<Trial>*trials = nullptr, *plain_trials = nullptr;
  // Prices that differ by less than this share are equal: what encodes less often is taken, then the first of
  // algorithms.def.
  double tolerance = 0;
};

struct Candidate {
  std::string algorithm;
  double seconds = 0;
  int rounds = 0;
  int lossy_encodes = 0;
  int nested_sums = 0;
  bool valid = true;
  std::string reason;  // why it is invalid, or what its price is made of
};

struct Choice {
  std::string algorithm;
  std::vector<Candidate> candidates;  // cheapest first, invalid last
  std::string explain() const;        // a table a person can read
};

// Throws Error(argument) if no algorithm supports the collective at this size.
Choice select(const Question& question);

// Time of one schedule, all ranks started together: full duplex, one send and one receive port a rank or host, lanes
// share the ports, ranks of a machine share its cores, chunks cut into segments.
double estimate(std::string_view algorithm, const Question& question);

}  // namespace gw
