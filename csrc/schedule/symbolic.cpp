#include "schedule/symbolic.hpp"

#include <algorithm>

namespace gw {
namespace {

bool reduces(Collective c) {
  return c == Collective::all_reduce || c == Collective::reduce_scatter || c == Collective::barrier;
}

const char* kind_name(StepKind kind) {
  return kind == StepKind::send ? "send" : kind == StepKind::recv ? "recv" : "recv_reduce";
}

std::string number(auto n) { return std::to_string(n); }

}  // namespace

std::string where(const Schedule& schedule, size_t lane, int step) {
  const Step& s = schedule.lanes[lane].steps[static_cast<size_t>(step)];
  std::string peers;
  for (int p : s.peers) peers += (peers.empty() ? "" : ", ") + number(p);
  return "rank " + number(schedule.rank) + ", lane " + number(lane) + ", step " + number(step) + " (" +
         kind_name(s.kind) + " of chunk " + number(s.chunk) + (s.kind == StepKind::send ? " to " : " from ") +
         peers + " in round " + number(s.round) + ")";
}

// ---- set-up ----------------------------------------------------------------------------------------------------

SymbolicRun::SymbolicRun(const std::vector<Schedule>& ranks, int segments, int depth, int capacity)
    : ranks_(ranks),
      size_(static_cast<int>(ranks.size())),
      chunks_(ranks[0].chunks),
      segments_(segments),
      capacity_(static_cast<size_t>(capacity)),
      collective_(ranks[0].collective),
      expressions_(size_),
      cells_(ranks.size() * static_cast<size_t>(chunks_) * static_cast<size_t>(segments)) {
  for (const Schedule& s : ranks) {
    auto& queues = queues_.emplace_back();
    for (const Lane& lane : s.lanes) queues.push_back(order_lane(lane, segments, depth));
    positions_.emplace_back(s.lanes.size());
    for (int chunk = 0; chunk < chunks_; ++chunk) {
      const bool has_input = s.collective == Collective::all_gather  ? chunk == s.rank
                             : s.collective == Collective::broadcast ? s.rank == s.root
                                                                     : s.collective != Collective::recv;
      for (int segment = 0; has_input && segment < segments; ++segment)
        cell(s.rank, chunk, segment).value = expressions_.input(s.rank, chunk);
    }
  }
}

const Step& SymbolicRun::step(int rank, size_t lane, int index) const {
  return ranks_[static_cast<size_t>(rank)].lanes[lane].steps[static_cast<size_t>(index)];
}

// A value that is what the collective will deliver, so that it may be forwarded as it is.
bool SymbolicRun::finished(ExpressionId value, int chunk) const {
  return reduces(collective_) ? expressions_.is_full_sum(value, chunk) : value != kNothing;
}

// ---- running ---------------------------------------------------------------------------------------------------

// Channels are bounded queues and a piece starts only after what it depends on, so every order of running the ranks
// ends in the same state: one run decides.
void SymbolicRun::run() {
  for (bool moved = true; moved;) {
    moved = false;
    for (int rank = 0; rank < size_; ++rank)
      for (size_t lane = 0; lane < queues_[static_cast<size_t>(rank)].size(); ++lane)
        moved = advance(rank, lane) || moved;
  }
  for (size_t rank = 0; rank < ranks_.size(); ++rank)
    for (size_t lane = 0; lane < queues_[rank].size(); ++lane)
      if (positions_[rank][lane].sends < queues_[rank][lane].sends.size() ||
          positions_[rank][lane].receives < queues_[rank][lane].receives.size())
        deadlock();
  for (const auto& [ends, messages] : channels_)
    if (!messages.empty()) {
      const auto& [from, to, lane] = ends;
      throw Refutation(where(ranks_[static_cast<size_t>(from)], lane, messages.front().step) + ": rank " +
                       number(to) + " never receives this message");
    }
}

bool SymbolicRun::advance(int rank, size_t lane) {
  const LaneQueues& q = queues_[static_cast<size_t>(rank)][lane];
  Position& at = positions_[static_cast<size_t>(rank)][lane];
  bool moved = false;
  for (bool more = true; more;) {
    more = false;
    if (at.sends < q.sends.size() && at.receives >= q.sends[at.sends].after &&
        try_send(rank, lane, q.sends[at.sends])) {
      ++at.sends;
      more = true;
    }
    if (at.receives < q.receives.size() && at.sends >= q.receives[at.receives].after &&
        try_receive(rank, lane, q.receives[at.receives])) {
      ++at.receives;
      more = true;
    }
    moved = moved || more;
  }
  return moved;
}

bool SymbolicRun::try_send(int rank, size_t lane, const Piece& piece) {
  const Step& s = step(rank, lane, piece.step);
  auto& messages = channel(rank, s.peers[0], lane);
  if (messages.size() >= capacity_) return false;
  Cell& c = cell(rank, s.chunk, piece.segment);
  const auto refuse = [&](const std::string& reason) {
    throw Refutation(where(ranks_[static_cast<size_t>(rank)], lane, piece.step) + ": " + reason);
  };
  if (c.value == kNothing) refuse("this rank has no value of the chunk to send");
  if (finished(c.value, s.chunk) != s.complete)
    refuse(std::string("is marked ") + (s.complete ? "complete" : "incomplete") + ", but the value is " +
           expressions_.text(c.value));
  ExpressionId sent = c.value;
  if (s.raw) {
    // Nothing is encoded: what peers get is the value itself.
  } else if (s.complete) {
    // Encoded once, and the sender takes what its peers decode; after that the frame is forwarded as it is. In an
    // all_to_all a block leaves for good: there is nothing to agree on.
    if (!c.framed) sent = expressions_.encoded(c.value);
    if (collective_ != Collective::all_to_all) c = {sent, true, kNothing};
  } else {
    sent = c.shared = expressions_.encoded(c.value);
  }
  messages.push_back({sent, s.chunk, s.round, piece.segment, s.complete, s.raw, piece.step});
  return true;
}

bool SymbolicRun::try_receive(int rank, size_t lane, const Piece& piece) {
  const Step& s = step(rank, lane, piece.step);
  std::vector<Message> messages;
  for (int from : s.peers) {
    const auto& waiting = channel(from, rank, lane);
    if (waiting.empty()) return false;
    match(waiting.front(), from, rank, lane, piece);
    messages.push_back(waiting.front());
  }
  for (int from : s.peers) channel(from, rank, lane).pop_front();
  if (s.kind == StepKind::recv)
    cell(rank, s.chunk, piece.segment) = {messages[0].value, !s.raw, kNothing};
  else
    fold(rank, lane, piece, messages);
  return true;
}

void SymbolicRun::match(const Message& m, int from, int rank, size_t lane, const Piece& piece) const {
  const Step& s = step(rank, lane, piece.step);
  const bool all_to_all = collective_ == Collective::all_to_all;
  // A recv_reduce takes incomplete values, a recv finished ones. An all_to_all names a block by who is at its other end.
  const bool complete = s.kind == StepKind::recv;
  const int chunk = all_to_all ? rank : s.chunk;
  const bool ends_agree = !all_to_all || s.chunk == from;
  if (m.chunk == chunk && ends_agree && m.round == s.round && m.segment == piece.segment &&
      m.complete == complete && m.raw == s.raw)
    return;
  if (m.raw != s.raw)
    throw Refutation(where(ranks_[static_cast<size_t>(rank)], lane, piece.step) + ": one end is raw, not " +
                     where(ranks_[static_cast<size_t>(from)], lane, m.step));
  throw Refutation(where(ranks_[static_cast<size_t>(rank)], lane, piece.step) + ": segment " +
                   number(piece.segment) + " expects a" + (complete ? " complete" : "n incomplete") +
                   " message, gets segment " + number(m.segment) + " of a" +
                   (m.complete ? " complete" : "n incomplete") + " one from " +
                   where(ranks_[static_cast<size_t>(from)], lane, m.step));
}

// Ascending rank order, this rank at its own place.
void SymbolicRun::fold(int rank, size_t lane, const Piece& piece, const std::vector<Message>& messages) {
  const Step& s = step(rank, lane, piece.step);
  Cell& c = cell(rank, s.chunk, piece.segment);
  // Peers hold the encoded form of a share that was sent, so this rank must add the same.
  const ExpressionId own = c.shared == kNothing ? c.value : c.shared;
  std::vector<ExpressionId> terms;
  for (const Message& m : messages) terms.push_back(m.value);
  const auto place = std::ranges::lower_bound(s.peers, rank) - s.peers.begin();
  terms.insert(terms.begin() + place, own);
  c = {expressions_.sum(terms), false, kNothing};
  if (finished(c.value, s.chunk) != s.complete)
    throw Refutation(where(ranks_[static_cast<size_t>(rank)], lane, piece.step) + ": is marked " +
                     (s.complete ? "complete" : "incomplete") + ", but the sum is " +
                     expressions_.text(c.value));
}

void SymbolicRun::deadlock() const {
  // A receive whose sender has nothing more to send explains more than one that waits in a circle.
  std::string circle;
  for (size_t rank = 0; rank < ranks_.size(); ++rank)
    for (size_t lane = 0; lane < queues_[rank].size(); ++lane) {
      const LaneQueues& q = queues_[rank][lane];
      const Position& at = positions_[rank][lane];
      if (at.receives < q.receives.size()) {
        const Piece& piece = q.receives[at.receives];
        const std::string here = where(ranks_[rank], lane, piece.step);
        for (int from : step(static_cast<int>(rank), lane, piece.step).peers) {
          const auto it = channels_.find({from, static_cast<int>(rank), lane});
          if (it != channels_.end() && !it->second.empty()) continue;
          const auto f = static_cast<size_t>(from);
          if (positions_[f][lane].sends == queues_[f][lane].sends.size())
            throw Refutation(here + ": waits for a message that rank " + number(from) + " never sends");
          if (circle.empty())
            circle = here + ": deadlock, waits for rank " + number(from) + ", which is stuck too";
        }
      }
      if (at.sends < q.sends.size() && circle.empty())
        circle = where(ranks_[rank], lane, q.sends[at.sends].step) +
                 ": deadlock, the channel stays full or what it sends is never written";
    }
  throw Refutation(circle.empty() ? "deadlock" : circle);
}

// ---- the promise -----------------------------------------------------------------------------------------------

// Whether the collective says what this chunk holds on this rank in the end.
bool SymbolicRun::promised(int rank, int chunk) const {
  if (collective_ == Collective::reduce_scatter) return chunk == rank;
  return ranks_[static_cast<size_t>(rank)].collective != Collective::send;
}

void SymbolicRun::check_final(int rank, int chunk, int segment) const {
  const ExpressionId v = value(rank, chunk, segment);
  const std::string here = "rank " + number(rank) + " ends with chunk " + number(chunk) + ", segment " +
                           number(segment) + " holding " + expressions_.text(v);
  if (reduces(collective_)) {
    if (!expressions_.is_full_sum(v, chunk))
      throw Refutation(here + ", not every rank's input of the chunk exactly once");
  } else {
    const Schedule& s = ranks_[static_cast<size_t>(rank)];
    const bool all_to_all = collective_ == Collective::all_to_all;
    int source = chunk;
    if (s.collective == Collective::broadcast) source = s.root;
    if (s.collective == Collective::recv) source = s.lanes[0].steps[0].peers[0];
    const auto wanted = std::pair(source, all_to_all ? rank : chunk);
    if (expressions_.origin(v) != wanted)
      throw Refutation(here + ", not the input of rank " + number(source));
  }
  const bool replicated = collective_ == Collective::all_reduce || collective_ == Collective::all_gather ||
                          collective_ == Collective::broadcast;
  const ExpressionId first = value(0, chunk, segment);
  if (replicated && v != first)
    throw Refutation(here + ", rank 0 holds " + expressions_.text(first) +
                     (expressions_.text(v) == expressions_.text(first)
                          ? ": the same sum, but encoded differently; the replicas would differ"
                          : ": the order of sums differs"));
}

void SymbolicRun::finish() {
  int encodes = 0, sums = 0;
  for (int rank = 0; rank < size_; ++rank)
    for (int chunk = 0; chunk < chunks_; ++chunk)
      for (int segment = 0; segment < segments_; ++segment) {
        if (!promised(rank, chunk)) continue;
        check_final(rank, chunk, segment);
        encodes = std::max(encodes, expressions_.encodes(value(rank, chunk, segment)));
        sums = std::max(sums, expressions_.nested_sums(value(rank, chunk, segment)));
      }
  if (collective_ == Collective::barrier) encodes = 0;  // nothing is in the messages
  for (const Schedule& s : ranks_)
    if (s.lossy_encodes != encodes)
      throw Refutation("rank " + number(s.rank) + " says lossy_encodes is " + number(s.lossy_encodes) +
                       ", but a value goes through " + number(encodes));
  for (const Schedule& s : ranks_)
    if (s.nested_sums != sums)
      throw Refutation("rank " + number(s.rank) + " says nested_sums is " + number(s.nested_sums) +
                       ", but a value goes through " + number(sums));
}

}  // namespace gw
