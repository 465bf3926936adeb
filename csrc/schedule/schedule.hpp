// A Schedule is one rank's part of a collective, as plain data: which chunk goes to or comes from which peer, and
// when. It knows no socket, no dtype, no device and no byte; the executor gives chunks their place in memory.
//
// Memory model: every chunk starts as this rank's input; `recv_reduce` folds the peers' values and this rank's own
// into it, in ascending rank order (this rank at its own place); `recv` overwrites it. An incomplete send sends this
// rank's current value; a complete one forwards a finished value. The message of an all_to_all is named by its
// destination at the sender (which block of its input) and by its source at the receiver (which block of its output).
//
// Rounds: a message has the same round on both sides. On every rank, what a send reads was written in an earlier
// round, and what a receive overwrites was sent in an earlier round, or in the same one by a step listed before. A rank
// does its sends in order of (round, step), and its receives likewise; both ends list the messages between them in one
// order. So by induction over rounds, sends before receives, a schedule cannot deadlock even if a channel holds a
// single message. `verify` checks all of it.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "schedule/topology.hpp"

namespace gw {

// Wire ids: never reuse one.
enum class Collective : uint8_t {
  all_reduce = 1,
  reduce_scatter,
  all_gather,
  broadcast,
  all_to_all,
  barrier,
  send,
  recv
};
std::string_view name(Collective c);

enum class StepKind : uint8_t {
  send,         // to peers[0]
  recv,         // from peers[0], overwrites the chunk with a complete value
  recv_reduce,  // from every rank of peers (ascending), folded with the own value in rank order
};

struct Step {
  StepKind kind;
  int chunk;
  int round;
  std::vector<int> peers;
  // The value is complete: a send or recv of a finished chunk (its frame is forwarded verbatim, never re-encoded),
  // or the recv_reduce that finishes it (its rank owns the chunk: it scales an average and encodes once).
  bool complete = false;
  // The array's own bytes, whatever the codec: inside a host, where bytes are cheap. Nothing is lost on the way.
  bool raw = false;
};

// Steps of a lane are sorted by round. Lanes touch disjoint chunks, use channels of their own and run side by side.
struct Lane {
  std::vector<Step> steps;
};

struct Schedule {
  std::string algorithm;
  Collective collective = Collective::all_reduce;
  int rank = 0;
  int size = 1;
  int root = -1;   // broadcast
  int chunks = 1;  // all_gather, reduce_scatter, all_to_all: size, chunk r belonging to rank r
  std::vector<Lane> lanes;
  // Lossy encodes a value goes through from its first to its last, the worst chunk (FACTS: error grows with it).
  int lossy_encodes = 0;
  // Sums of sums that a value goes through; in a 16-bit array each of them is rounded when it leaves its rank.
  int nested_sums = 0;
  bool raw = false;  // some messages of some rank are
};

// What an algorithm is asked for: one rank's part of a collective.
struct Part {
  Collective collective;
  int rank;
  int size;  // at least 2
  int root;  // broadcast, else -1
  const Topology& topology;
};

inline constexpr int kMaxLanes = 2;

struct Algorithm {
  std::string_view name;
  uint8_t id;                // wire id, never reused
  std::string_view summary;  // one line for tables: idea, order of sums
  bool (*supports)(Collective collective, int size);
  Schedule (*make)(const Part& part);
};

// All algorithms, in the order of algorithms.def.
const std::vector<Algorithm>& algorithms();
// Throws Error(argument) that names the known algorithms.
const Algorithm& algorithm(std::string_view name);
// Throws Error(argument) if the algorithm does not support the collective at this size.
Schedule make_schedule(std::string_view algorithm, const Part& part);
// One message of one chunk. No algorithm: there is nothing to choose. `collective` is send or recv.
Schedule p2p_schedule(Collective collective, int rank, int size, int peer);

}  // namespace gw
