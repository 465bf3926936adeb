// Price every candidate, take the cheapest valid one, and be able to say why. Deterministic: every rank that asks
// with the same Question gets the same answer.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "schedule/schedule.hpp"

namespace gw {

struct Link {
  double alpha_s;          // seconds a message takes however small
  double beta_s_per_byte;  // seconds per byte
};

struct Question {
  Collective collective = Collective::all_reduce;
  int size = 1;
  size_t raw_bytes = 0;         // of all chunks together (all_gather: of the gathered array)
  double wire_ratio = 1;        // encoded bytes / raw bytes
  bool lossy = false;           // a codec is to be used, and loses something
  bool rounding = false;        // 16-bit floats: a partial sum is rounded whenever it leaves its rank
  double gamma_s_per_byte = 0;  // reduce (and encode + decode) per raw byte
  size_t segment_bytes = size_t{128} << 10;
  Link link{};  // the slowest link between any two ranks
  Topology topology{};
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

// alpha-beta-gamma time of one schedule, all ranks started together: full duplex, one send and one receive port a
// rank, lanes share the ports, chunks cut into segments.
double estimate(std::string_view algorithm, const Question& question);

}  // namespace gw
