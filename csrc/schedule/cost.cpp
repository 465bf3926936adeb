// The price of a schedule: time = latency + bytes / bandwidth + arithmetic, found by running the schedules of all ranks
// on a clock, in the executor's order.
//
// A message costs its sender's core message_s and touch a byte, is on its way for alpha, occupies the sender's send port
// and the receiver's receive port for beta a byte, and costs the receiver's core the same as the sender's. Arithmetic
// costs a core gamma, encode or decode a raw byte. A core does one piece at a time, for all the ranks that share it.
// (The LogGP model, with cores: Alexandrov et al. 1995.)
#include <algorithm>
#include <cmath>
#include <map>
#include <queue>

#include "base/error.hpp"
#include "schedule/load.hpp"
#include "schedule/unit_order.hpp"

namespace gw {
namespace {

// As many segments as the executor lets a round run ahead with its default channels (1 MiB, half full of 128 KiB).
constexpr int kDepth = 4;
// Above this group size the schedules of all ranks are too many to run: a closed form takes over.
constexpr int kMostSimulated = 64;
// About 10 ms of simulation (2.5 GHz x86, one core); the answer is cached by the caller.
constexpr size_t kMostPieces = 40'000;
constexpr int kMostSegments = 64;

struct Group {
  std::vector<Schedule> ranks;
  std::vector<std::vector<std::vector<double>>> work;  // [rank][lane][step] seconds a raw byte
  size_t steps = 0;
};

Group make_group(std::string_view algorithm, const Question& q) {
  const double gamma = q.gamma_s_per_byte;
  const double encode = q.encode_s_per_byte < 0 ? gamma : q.encode_s_per_byte;
  const double decode = q.decode_s_per_byte < 0 ? gamma : q.decode_s_per_byte;
  Group g;
  for (int r = 0; r < q.size; ++r) {
    g.ranks.push_back(make_schedule(algorithm, {q.collective, r, q.size, 0, q.topology}));
    auto& work = g.work.emplace_back();
    for (const Lane& lane : g.ranks.back().lanes) {
      auto& seconds = work.emplace_back();
      for (const StepWork& w : work_of(lane, coded(q)))
        seconds.push_back(w.reduce * gamma + w.encode * encode + w.decode * decode);
      g.steps += lane.steps.size();
    }
  }
  return g;
}

// Pieces that the executor cuts a chunk into.
double segments_of(double chunk_bytes, const Question& q) {
  constexpr double kPieces = 4, kSmallest = 16 << 10;
  const double piece =
      std::min(static_cast<double>(q.segment_bytes), std::max(chunk_bytes / kPieces, kSmallest));
  return std::max(1.0, std::ceil(chunk_bytes / piece));
}

// ---- running on a clock ------------------------------------------------------------------------------------------

class Simulation {
 public:
  Simulation(const Group& group, const Question& q, int segments);
  double run();

 private:
  // One in-order queue: the sends or the receives of a lane.
  struct Line {
    const std::vector<Piece>* pieces = nullptr;
    size_t next = 0;
    double last_done = 0;  // pieces of a line finish in order
    bool offered = false;  // its next piece waits in `events_`
  };
  struct Arrivals {
    std::vector<double> times;
    size_t taken = 0;
  };
  struct Event {
    double time;
    size_t line;
    bool operator>(const Event& other) const {
      return time != other.time ? time > other.time : line > other.line;
    }
  };

  size_t rank_of(size_t line) const { return line / (2 * lanes_); }
  size_t lane_of(size_t line) const { return line / 2 % lanes_; }
  static bool sends(size_t line) { return line % 2 == 0; }
  size_t line_of(size_t rank, size_t lane, bool send) const {
    return (rank * lanes_ + lane) * 2 + (send ? 0 : 1);
  }
  const Step& step_of(size_t line) const {
    const Piece& piece = (*lines_[line].pieces)[lines_[line].next];
    return group_.ranks[rank_of(line)].lanes[lane_of(line)].steps[static_cast<size_t>(piece.step)];
  }
  Arrivals& arrivals(size_t from, size_t to, size_t lane) {
    return arrivals_[(from * group_.ranks.size() + to) * lanes_ + lane];
  }
  double earliest(size_t line);  // when its next piece may start; infinite if that is not known yet
  void offer(size_t line);
  void do_next(size_t line);
  const Link& link(size_t from, size_t to) const {
    return q_.links.empty() ? q_.link : q_.links[from * group_.ranks.size() + to];
  }
  double bytes_of(const Step& step) const { return raw_ * (step.raw ? 1 : q_.wire_ratio); }
  double core_s(size_t line) const;  // of its next piece

  const Group& group_;
  const Question& q_;
  double raw_;  // bytes of one segment
  size_t lanes_;
  std::vector<std::vector<LaneQueues>> queues_;
  std::vector<Line> lines_;
  std::vector<Arrivals> arrivals_;
  std::vector<size_t> port_of_, core_of_;                // [rank]
  std::vector<double> send_port_, receive_port_, core_;  // free from
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
};

Simulation::Simulation(const Group& group, const Question& q, int segments)
    : group_(group),
      q_(q),
      raw_(static_cast<double>(q.raw_bytes) / group.ranks[0].chunks / segments),
      lanes_(std::max<size_t>(1, group.ranks[0].lanes.size())) {
  const size_t n = group.ranks.size();
  for (const Schedule& s : group.ranks) {
    auto& queues = queues_.emplace_back();
    for (const Lane& lane : s.lanes) queues.push_back(order_lane(lane, segments, kDepth));
  }
  lines_.resize(n * lanes_ * 2);
  for (size_t line = 0; line < lines_.size(); ++line) {
    const auto& lanes = queues_[rank_of(line)];
    static const std::vector<Piece> kNone;
    lines_[line].pieces = lane_of(line) >= lanes.size() ? &kNone
                          : sends(line)                 ? &lanes[lane_of(line)].sends
                                                        : &lanes[lane_of(line)].receives;
  }
  arrivals_.resize(n * n * lanes_);
  std::map<int, size_t> ports, on_machine;
  for (size_t r = 0; r < n; ++r) {
    const bool shared = !q.links.empty() && !q.topology.host.empty();
    port_of_.push_back(shared ? ports.try_emplace(q.topology.host[r], ports.size()).first->second : r);
    const int machine = q.machine.empty() ? 0 : q.machine[r];
    const size_t before = on_machine[machine]++;
    // cores are numbered by machine; without a number of cores every rank has its own
    core_of_.push_back(q.cores <= 0 ? r
                                    : static_cast<size_t>(machine) * static_cast<size_t>(q.cores) +
                                          before % static_cast<size_t>(q.cores));
  }
  send_port_.resize(n);
  receive_port_.resize(n);
  core_.resize(1 + *std::ranges::max_element(core_of_));
}

double Simulation::core_s(size_t line) const {
  const size_t rank = rank_of(line), lane = lane_of(line);
  const auto index = static_cast<size_t>((*lines_[line].pieces)[lines_[line].next].step);
  const Step& step = group_.ranks[rank].lanes[lane].steps[index];
  double seconds = group_.work[rank][lane][index] * raw_;
  for (int peer : step.peers) {
    const auto p = static_cast<size_t>(peer);
    const Link& l = sends(line) ? link(rank, p) : link(p, rank);
    seconds += l.message_s + bytes_of(step) * l.touch_s_per_byte;
  }
  return seconds;
}

double Simulation::earliest(size_t line) {
  constexpr double kUnknown = HUGE_VAL;
  const Line& mine = lines_[line];
  if (mine.next == mine.pieces->size()) return kUnknown;
  const Line& other = lines_[line ^ 1];
  const Piece& piece = (*mine.pieces)[mine.next];
  if (other.next < piece.after) return kUnknown;
  const size_t rank = rank_of(line), lane = lane_of(line);
  const Step& step = step_of(line);
  double time = piece.after ? other.last_done : 0;
  if (core_s(line) > 0) time = std::max(time, core_[core_of_[rank]]);
  if (sends(line))
    return link(rank, static_cast<size_t>(step.peers[0])).beta_s_per_byte > 0
               ? std::max(time, send_port_[port_of_[rank]])
               : std::max(time, mine.last_done);
  for (int from : step.peers) {
    const Arrivals& a = arrivals(static_cast<size_t>(from), rank, lane);
    if (a.taken == a.times.size()) return kUnknown;
    time = std::max(time, a.times[a.taken]);
  }
  return std::max(time, mine.last_done);
}

// One event a line: what is known to start later than its event says is offered again when that comes up.
void Simulation::offer(size_t line) {
  if (lines_[line].offered) return;
  const double time = earliest(line);
  if (time == HUGE_VAL) return;
  events_.push({time, line});
  lines_[line].offered = true;
}

void Simulation::do_next(size_t line) {
  Line& mine = lines_[line];
  const size_t rank = rank_of(line), lane = lane_of(line);
  const Step& step = step_of(line);
  const double work = core_s(line);
  double done = earliest(line) + work;
  if (work > 0) core_[core_of_[rank]] = done;
  ++mine.next;
  if (sends(line)) {
    const auto to = static_cast<size_t>(step.peers[0]);
    const Link& l = link(rank, to);
    const double wire_s = bytes_of(step) * l.beta_s_per_byte;
    double arrived = done + l.alpha_s;
    if (wire_s > 0) {
      double &out = send_port_[port_of_[rank]], &in = receive_port_[port_of_[to]];
      out = done + wire_s;
      in = arrived = std::max(arrived, in) + wire_s;
      done = out;
    }
    arrivals(rank, to, lane).times.push_back(arrived);
    offer(line_of(to, lane, false));
  } else {
    for (int from : step.peers) ++arrivals(static_cast<size_t>(from), rank, lane).taken;
  }
  mine.last_done = done;
  offer(line);
  offer(line ^ 1);
}

double Simulation::run() {
  for (size_t line = 0; line < lines_.size(); ++line) offer(line);
  // Always the piece that can start first: ports and arithmetic are taken in order of time, not of program text.
  while (!events_.empty()) {
    const Event event = events_.top();
    events_.pop();
    lines_[event.line].offered = false;
    if (earliest(event.line) > event.time)
      offer(event.line);  // something else took the port meanwhile
    else
      do_next(event.line);
  }
  double end = 0;
  for (const Line& line : lines_) {
    check_internal(line.next == line.pieces->size(), "a schedule in the list does not run to its end");
    end = std::max(end, line.last_done);
  }
  return end;
}

// No pipelining gets below the bytes of the busiest port.
double least_s(const Group& group, const Question& q) {
  if (!q.links.empty()) return 0;  // who is busiest depends on the links
  double busiest = 0;
  for (const Schedule& s : group.ranks) {
    const Load load = load_of(s, coded(q));
    busiest = std::max({busiest, load.sent, load.received});
  }
  return q.link.alpha_s + busiest * static_cast<double>(q.raw_bytes) * q.wire_ratio * q.link.beta_s_per_byte;
}

// With many segments the time that a pipeline takes to fill is proportional to the segment's size, so two runs with
// coarser segments tell what fine ones would give.
double simulate(std::string_view algorithm, const Question& q) {
  const Group group = make_group(algorithm, q);
  const double chunk_bytes = static_cast<double>(q.raw_bytes) / group.ranks[0].chunks;
  const double wanted = segments_of(chunk_bytes, q);
  const auto affordable =
      std::clamp<size_t>(kMostPieces / std::max<size_t>(1, group.steps), 2, kMostSegments);
  if (wanted <= static_cast<double>(affordable)) return Simulation(group, q, static_cast<int>(wanted)).run();
  const int fine = static_cast<int>(affordable) / 2 * 2, coarse = fine / 2;
  const double fine_s = Simulation(group, q, fine).run(), coarse_s = Simulation(group, q, coarse).run();
  const double extrapolated_s = fine_s - std::max(0.0, coarse_s - fine_s) * (1 - fine / wanted);
  return std::max(extrapolated_s, least_s(group, q));
}

// ---- closed form ---------------------------------------------------------------------------------------------------

// Latency of every round, then the busiest port or processor, then the rounds in which that rank has nothing to send:
// there it waits for the first segment to come by.
double closed_form(std::string_view algorithm, const Question& q) {
  std::vector<Load> loads;
  int rounds = 0, chunks = 1;
  for (const Schedule& s : sample_ranks(algorithm, q)) {
    loads.push_back(load_of(s, coded(q)));
    rounds = std::max(rounds, loads.back().rounds);
    chunks = s.chunks;
  }
  const double raw = static_cast<double>(q.raw_bytes), wire = q.wire_ratio * q.link.beta_s_per_byte;
  const double segment = std::min(raw / chunks, static_cast<double>(q.segment_bytes));
  double busiest = 0;
  for (const Load& load : loads) {
    const double idle_s = (rounds - load.sending_rounds) * segment * wire;
    // arithmetic overlaps with the wire, but for the last segment's
    const double wire_s = std::max(load.sent, load.received) * raw * wire + segment * q.gamma_s_per_byte;
    busiest = std::max(busiest, idle_s + std::max(wire_s, load.passes * raw * q.gamma_s_per_byte));
  }
  return rounds * q.link.alpha_s + busiest;
}

}  // namespace

double estimate(std::string_view algorithm, const Question& q) {
  if (q.segment_bytes == 0) fail_argument("segment_bytes is 0; a segment has at least one byte");
  if (!(q.wire_ratio >= 0) || !(q.gamma_s_per_byte >= 0) || !(q.link.alpha_s >= 0) ||
      !(q.link.beta_s_per_byte >= 0))
    fail_argument("wire_ratio, gamma, alpha and beta must be numbers of at least 0");
  const auto n = static_cast<size_t>(q.size);
  if ((!q.links.empty() && q.links.size() != n * n) || (!q.machine.empty() && q.machine.size() != n))
    fail_argument("links and machine must describe " + std::to_string(q.size) + " ranks");
  return q.size <= kMostSimulated ? simulate(algorithm, q) : closed_form(algorithm, q);
}

}  // namespace gw
