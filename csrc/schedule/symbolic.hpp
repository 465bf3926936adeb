// All ranks' schedules run together on formulas instead of numbers.
#pragma once
#include <deque>
#include <map>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "schedule/expression.hpp"
#include "schedule/unit_order.hpp"

namespace gw {

// What is wrong with a schedule, as a sentence. Never leaves this room.
struct Refutation : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// "rank 1, lane 0, step 3 (recv_reduce of chunk 2 from 0, 3 in round 1)"
std::string where(const Schedule& schedule, size_t lane, int step);

class SymbolicRun {
 public:
  // The schedules must have passed verify's structure checks.
  SymbolicRun(const std::vector<Schedule>& ranks, int segments, int depth, int capacity);
  void run();     // throws Refutation: deadlock, unmatched message, untruthful `complete`
  void finish();  // throws Refutation unless every rank ends with what the collective promises

  ExpressionId value(int rank, int chunk, int segment = 0) const {
    return cells_[index(rank, chunk, segment)].value;
  }
  const Expressions& expressions() const { return expressions_; }

 private:
  struct Message {
    ExpressionId value;
    int chunk, round, segment;
    bool complete, raw;
    int step;  // the sender's
  };
  struct Cell {  // one segment of one chunk on one rank
    ExpressionId value = kNothing;
    bool framed = false;             // the value came from, or went through, the codec: sent on untouched
    ExpressionId shared = kNothing;  // what peers decode of this rank's incomplete value, once it was sent
  };
  struct Position {
    size_t sends = 0, receives = 0;
  };

  bool advance(int rank, size_t lane);
  bool try_send(int rank, size_t lane, const Piece& piece);
  bool try_receive(int rank, size_t lane, const Piece& piece);
  void match(const Message& message, int from, int rank, size_t lane, const Piece& piece) const;
  void fold(int rank, size_t lane, const Piece& piece, const std::vector<Message>& messages);
  void check_final(int rank, int chunk, int segment) const;
  [[noreturn]] void deadlock() const;
  bool finished(ExpressionId value, int chunk) const;
  bool promised(int rank, int chunk) const;

  const Step& step(int rank, size_t lane, int index) const;
  std::deque<Message>& channel(int from, int to, size_t lane) { return channels_[{from, to, lane}]; }
  size_t index(int rank, int chunk, int segment) const {
    return static_cast<size_t>((rank * chunks_ + chunk) * segments_ + segment);
  }
  Cell& cell(int rank, int chunk, int segment) { return cells_[index(rank, chunk, segment)]; }

  const std::vector<Schedule>& ranks_;
  int size_, chunks_, segments_;
  size_t capacity_;
  Collective collective_;
  Expressions expressions_;
  std::vector<Cell> cells_;
  std::vector<std::vector<LaneQueues>> queues_;   // [rank][lane]
  std::vector<std::vector<Position>> positions_;  // [rank][lane]
  std::map<std::tuple<int, int, size_t>, std::deque<Message>> channels_;
};

}  // namespace gw
