#include "comm/executor.hpp"

#include <algorithm>
#include <cstring>

#include "base/error.hpp"
#include "codec/kernels.hpp"
#include "comm/driver_gpu.hpp"

namespace gw {

using Clock = std::chrono::steady_clock;

namespace {
// A smaller payload costs little to copy behind its header.
constexpr size_t kWorthGathering = 16 << 10;
}  // namespace

Executor::Executor(std::shared_ptr<const Plan> plan, const Buffers& buffers)
    : plan_(std::move(plan)), buffers_(buffers), cpu_(*plan_, buffers) {
  if (buffers_.gpu) gpu_ = driver_of_gpu(*plan_, buffers_);
}

void Executor::begin(Transport& transport, Staging& staging, Trace& trace) {
  transport_ = &transport;
  trace_ = &trace;
  const auto size = static_cast<size_t>(plan_->size);
  spans_ = staging.spans(size);
  copy_tuners_ = staging.copy_tuners(size);
  driver().begin(staging, seq_);
}

bool Executor::advance() {
  try {
    return move();
  } catch (const Error& e) {
    if (e.kind() == ErrorKind::codec || e.kind() == ErrorKind::gpu) throw placed(e);
    throw;
  }
}

bool Executor::move() {
  bool moved = false, finished = true;
  waits_for_gpu_ = false;
  for (size_t l = 0; l < plan_->lanes.size(); ++l) {
    const LanePlan& lane = plan_->lanes[l];
    Cursor& c = cursors_[l];
    moved |= send(lane, c);
    // One receive, then sends again: what has just been reduced is still in the cache when it is sent on.
    if (c.receives < lane.receives.size() && c.sends >= lane.receives[c.receives].after &&
        try_receive(lane, lane.receives[c.receives])) {
      ++c.receives;
      moved = true;
    }
    finished = finished && c.sends == lane.sends.size() && c.receives == lane.receives.size();
  }
  if (finished) {
    // Bytes that only this process can push out must be gone before it may stop driving the transport.
    for (const auto& [peer, lane] : plan_->send_channels)
      if (!transport_->channel(peer, lane).flushed()) return moved;
    if (!driver().finish()) {
      waits_for_gpu_ = driver().missing().empty();
      return moved;
    }
    done_ = !lends_ || all_taken();
    moved |= done_;
  }
  return moved;
}

// ---- sending ---------------------------------------------------------------------------------------------------

bool Executor::send(const LanePlan& lane, Cursor& c) {
  const uint32_t before = c.sends;
  const size_t first_slot = number(lane) * Driver::kAhead;
  const auto may_send = [&] {
    if (gpu_) start_ahead(lane, c, first_slot);
    return c.sends < lane.sends.size() && c.receives >= lane.sends[c.sends].after;
  };
  while (may_send() && try_send(lane, lane.sends[c.sends], first_slot + c.sends % Driver::kAhead)) ++c.sends;
  return c.sends != before;
}

// What a GPU prepares while earlier messages are on their way.
void Executor::start_ahead(const LanePlan& lane, Cursor& c, size_t first_slot) {
  const size_t end = std::min(lane.sends.size(), c.sends + Driver::kAhead);
  for (; c.started < end && c.receives >= lane.sends[c.started].after; ++c.started)
    gpu_->start(lane.sends[c.started], first_slot + c.started % Driver::kAhead);
}

bool Executor::try_send(const LanePlan& lane, const Unit& u, size_t slot) {
  if (!driver().ready(u, slot)) {
    waits_for_gpu_ = true;
    return false;
  }
  const int peer = lane.peers[u.first_peer];
  Channel& channel = transport_->channel(peer, lane.channel_lane);
  const std::optional<Loan> lent = loan(u);
  const size_t most = kHeaderBytes + (lent ? sizeof(Loan) : u.payload_bytes);
  std::byte* message = channel.reserve(most);
  if (!message) return false;
  const auto start = trace_->on() ? Clock::now() : Clock::time_point{};
  FrameHeader h = header(lane, u);
  const bool gathers = channel.gathers() && u.payload_bytes >= kWorthGathering;
  const Payload lying = gathers ? driver().ready_made(u) : Payload{};
  size_t bytes = most;
  if (lent) {
    if (u.settle) driver().settle(u);
    std::memcpy(message + kHeaderBytes, &*lent, sizeof(Loan));
    h.flags = kLent;
    lends_ = true;
  } else if (u.board != kNoSlot && !gpu_) {
    if (u.posts) driver().fill(u, slot, transport_->board(plan_->rank) + u.board, nullptr);
    h.flags = kPosted;
    lends_ = true;
  } else if (lying.data) {
    h.payload_bytes = lying.bytes;
    bytes = kHeaderBytes + lying.bytes;
  } else {
    // The memory of an ask is in this core's cache, where the last answer was read: nothing to gain by streaming past it.
    h.payload_bytes =
        driver().fill(u, slot, message + kHeaderBytes, in_place(lane, u) ? nullptr : &copy_tuners_[peer]);
    bytes = kHeaderBytes + h.payload_bytes;
  }
  write_header(h, message);
  if (in_place(lane, u))
    channel.ask(most);  // the answer may be longer
  else if (lying.data)
    channel.commit(kHeaderBytes, lying.data, lying.bytes);
  else
    channel.commit(bytes);
  if (trace_->on())
    trace_->add({u.encode ? "encode+send" : "send", start, Clock::now(), seq_, peer, u.chunk,
                 static_cast<int>(u.segment), bytes});
  return true;
}

// ---- receiving -------------------------------------------------------------------------------------------------

// The payload of the unit's message from `peer`, once all of it is here, or no data; its header is checked first,
// against local geometry, so that a peer that runs something else is found out even if its message is shorter. The one
// received number that counts is the size of a payload whose codec has no fixed one, and only up to the local bound.
Payload Executor::arrived(int peer, const LanePlan& lane, const Unit& u) const {
  Channel& channel = transport_->channel(peer, lane.channel_lane);
  const bool answer = u.kind == StepKind::recv && in_place(lane, u);
  const std::byte* got = answer ? channel.peek_answer(kHeaderBytes) : channel.peek(kHeaderBytes);
  if (!got) return {};
  alignas(64) std::byte expected[kHeaderBytes];
  FrameHeader h = header(lane, u);
  const bool raw = !plan_->operation.codec || u.raw;
  if (!raw && !plan_->operation.codec->fixed_size())
    h.payload_bytes = std::min<uint64_t>(read_header(got).payload_bytes, u.payload_bytes);
  const bool lent = answer ? loan(u).has_value() : raw && read_header(got).flags == kLent;
  const bool posted = !answer && u.board != kNoSlot && read_header(got).flags == kPosted;
  if (lent || posted) h.flags = lent ? kLent : kPosted;
  write_header(h, expected);
  if (!header_equals(got, expected)) mismatch(peer, got, expected);
  if (lent && answer) return driver().finished(u, number(lane));
  if (lent) return borrowed(peer, channel.peek(kHeaderBytes + sizeof(Loan)), u);
  if (posted) return {transport_->board(peer) + u.board, h.payload_bytes};
  const size_t bytes = kHeaderBytes + h.payload_bytes;
  const std::byte* whole = answer ? channel.peek_answer(bytes) : channel.peek(bytes);
  return whole ? Payload{whole + kHeaderBytes, h.payload_bytes} : Payload{};
}

bool Executor::try_receive(const LanePlan& lane, const Unit& u) {
  for (uint32_t i = 0; i < u.peers; ++i) {
    spans_[i] = arrived(lane.peers[u.first_peer + i], lane, u);
    if (!spans_[i].data) return false;
  }
  const auto start = trace_->on() ? Clock::now() : Clock::time_point{};
  const Taken taken = driver().take({.unit = u,
                                     .lane = number(lane),
                                     .peers = &lane.peers[u.first_peer],
                                     .payloads = spans_,
                                     .answer = answer_due(lane, u)});
  if (taken == Taken::no) {
    waits_for_gpu_ = true;
    return false;
  }
  const size_t bytes = release(lane, u, taken == Taken::answered);
  if (trace_->on())
    trace_->add({u.kind == StepKind::recv ? "recv" : "reduce", start, Clock::now(), seq_,
                 lane.peers[u.first_peer], u.chunk, static_cast<int>(u.segment), bytes});
  return true;
}

// Where the first of the answers that are due to the unit's peers goes.
std::byte* Executor::answer_due(const LanePlan& lane, const Unit& u) const {
  if (u.kind != StepKind::recv_reduce) return nullptr;
  for (uint32_t i = 0; i < u.peers; ++i)
    if (in_place(lane, u, i))
      return spans_[i].lent
                 ? spans_[i].lent
                 : transport_->channel(lane.peers[u.first_peer + i], lane.channel_lane).answer_slot() +
                       kHeaderBytes;
  return nullptr;
}

// Frees the unit's messages, or answers them. Returns their bytes. answered: the first answer is written.
size_t Executor::release(const LanePlan& lane, const Unit& u, bool answered) {
  size_t bytes = 0;
  for (uint32_t i = 0; i < u.peers; ++i) {
    Channel& channel = transport_->channel(lane.peers[u.first_peer + i], lane.channel_lane);
    const bool lent = spans_[i].lent;
    const size_t message = kHeaderBytes + (lent ? sizeof(Loan) : spans_[i].bytes);
    const size_t most = kHeaderBytes + (lent ? sizeof(Loan) : u.payload_bytes);
    bytes += message;
    if (!in_place(lane, u, i)) {
      channel.consume(message);
    } else if (u.kind == StepKind::recv) {
      channel.consume_answer(most);
    } else {
      write_answer(lane, u, spans_[i], channel.answer_slot(), answered);
      channel.answer(most);
      answered = false;
    }
  }
  return bytes;
}

// The finished value goes back to a peer that asked, over the share it sent.
void Executor::write_answer(const LanePlan& lane, const Unit& u, const Payload& ask, std::byte* message,
                            bool has_payload) {
  FrameHeader h = header(lane, u);
  ++h.round;
  if (ask.lent) h.flags = kLent;
  if (u.payload_bytes && !has_payload) {
    const Payload value = driver().finished(u, number(lane));
    kernels().copy(value.data, ask.lent ? ask.lent : message + kHeaderBytes, value.bytes);
    h.payload_bytes = value.bytes;
  }
  write_header(h, message);
}

// ---- small things ------------------------------------------------------------------------------------------------

FrameHeader Executor::header(const LanePlan& lane, const Unit& u) const {
  FrameHeader h = plan_->header;
  h.lane = static_cast<uint8_t>(lane.channel_lane);
  h.count = u.count;
  h.payload_bytes = u.payload_bytes;
  h.seq = seq_;
  h.round = u.round;
  // The sender of an all_to_all names a block by its destination, the receiver by its source.
  const bool to_me = plan_->operation.collective == Collective::all_to_all && u.kind == StepKind::recv;
  h.chunk = to_me ? static_cast<uint16_t>(plan_->rank) : u.chunk;
  h.segment = u.segment;
  if (u.raw) {
    h.codec = kRawCodec;
    h.params = 0;
  }
  return h;
}

std::vector<int> Executor::waiting_for() const {
  std::vector<int> peers;
  for (size_t l = 0; l < plan_->lanes.size(); ++l) {
    const LanePlan& lane = plan_->lanes[l];
    const Cursor& c = cursors_[l];
    if (c.receives < lane.receives.size()) {
      const Unit& u = lane.receives[c.receives];
      for (uint32_t i = 0; i < u.peers; ++i) {
        const int peer = lane.peers[u.first_peer + i];
        if (!arrived(peer, lane, u).data) peers.push_back(peer);
      }
    }
    if (c.sends < lane.sends.size() && c.receives >= lane.sends[c.sends].after)
      peers.push_back(lane.peers[lane.sends[c.sends].first_peer]);
  }
  if (peers.empty()) peers = driver().missing();
  if (peers.empty() && lends_)
    for (const auto& [peer, lane] : plan_->send_channels)
      if (!transport_->channel(peer, lane).taken()) peers.push_back(peer);
  return peers;
}

int Executor::step() const {
  for (size_t l = 0; l < plan_->lanes.size(); ++l) {
    const LanePlan& lane = plan_->lanes[l];
    if (cursors_[l].receives < lane.receives.size()) return lane.receives[cursors_[l].receives].step;
    if (cursors_[l].sends < lane.sends.size()) return lane.sends[cursors_[l].sends].step;
  }
  if (const int step = driver().missing_in_step(); step >= 0) return step;
  for (const LanePlan& lane : plan_->lanes)  // peers still have what was lent
    if (lends_ && !lane.sends.empty()) return lane.sends.back().step;
  return -1;
}

std::string Executor::describe() const {
  return std::string(name(plan_->operation.collective)) + " #" + std::to_string(seq_);
}

}  // namespace gw
