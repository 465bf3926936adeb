#include "comm/executor.hpp"

#include <algorithm>
#include <cstring>

#include "base/error.hpp"
#include "codec/kernels.hpp"

namespace gw {

using Clock = std::chrono::steady_clock;

Executor::Executor(std::shared_ptr<const Plan> plan, const Buffers& buffers)
    : plan_(std::move(plan)), buffers_(buffers) {}

void Executor::begin(Transport& transport, Staging& staging, Trace& trace) {
  transport_ = &transport;
  trace_ = &trace;
  const Plan& p = *plan_;
  const size_t element = size_of(p.operation.dtype);
  spans_ = staging.spans(static_cast<size_t>(p.size));
  sources_ = staging.sources(static_cast<size_t>(p.size));
  copy_tuners_ = staging.copy_tuners(static_cast<size_t>(p.size));
  if (p.scratch_elements) scratch_ = staging.scratch(p.scratch_elements);
  if (p.frame_store_bytes) frames_ = staging.frames(p.frame_store_bytes);
  if (p.staged_bytes) partials_ = staging.partials(p.staged_bytes);
  if (p.copy_count)
    kernels().copy(static_cast<const std::byte*>(buffers_.in) + p.copy_in_offset * element,
                   static_cast<std::byte*>(buffers_.out) + p.copy_out_offset * element,
                   p.copy_count * element);
  // Alone, nothing is encoded; what an earlier, larger world left in the residual is paid out.
  if (p.size == 1 && buffers_.residual && p.operation.count) {
    std::vector<float> sum(p.operation.count);
    kernels().load(p.operation.dtype, buffers_.in, buffers_.residual, sum.data(), sum.size());
    kernels().store(p.operation.dtype, sum.data(), 1.0f, buffers_.out, sum.size());
    std::fill_n(buffers_.residual, sum.size(), 0.0f);
  }
}

bool Executor::advance() {
  try {
    return move();
  } catch (const Error& e) {
    if (e.kind() == ErrorKind::codec) throw placed(e);
    throw;
  }
}

bool Executor::move() {
  bool moved = false, finished = true;
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
    if (!followed_)
      for (const auto& [peer, lane] : plan_->send_channels)
        if (!transport_->channel(peer, lane).flushed()) return moved;
    done_ = !lends_ || all_taken();
    moved |= done_;
  }
  return moved;
}

bool Executor::send(const LanePlan& lane, Cursor& c) {
  const uint32_t before = c.sends;
  while (c.sends < lane.sends.size() && c.receives >= lane.sends[c.sends].after &&
         try_send(lane, lane.sends[c.sends]))
    ++c.sends;
  return c.sends != before;
}

// ---- sending ---------------------------------------------------------------------------------------------------

bool Executor::try_send(const LanePlan& lane, const Unit& u) {
  const int peer = lane.peers[u.first_peer];
  Channel& channel = transport_->channel(peer, lane.channel_lane);
  const std::optional<Loan> lent = loan(u);
  const size_t most = kHeaderBytes + (lent ? sizeof(Loan) : u.payload_bytes);
  std::byte* message = channel.reserve(most);
  if (!message) return false;
  const auto start = trace_->on() ? Clock::now() : Clock::time_point{};
  FrameHeader h = header(lane, u);
  size_t bytes = most;
  if (lent) {
    if (u.settle) settle(u);
    std::memcpy(message + kHeaderBytes, &*lent, sizeof(Loan));
    h.flags = kLent;
    lends_ = true;
  } else {
    // The memory of an ask is in this core's cache, where the last answer was read: nothing to gain by streaming past it.
    h.payload_bytes = fill(u, message + kHeaderBytes, in_place(lane, u) ? nullptr : &copy_tuners_[peer]);
    bytes = kHeaderBytes + h.payload_bytes;
  }
  write_header(h, message);
  if (in_place(lane, u))
    channel.ask(most);  // the answer may be longer
  else
    channel.commit(bytes);
  if (trace_->on())
    trace_->add({u.encode ? "encode+send" : "send", start, Clock::now(), seq_, peer, u.chunk,
                 static_cast<int>(u.segment), bytes});
  return true;
}

// Writes the payload; returns its size.
size_t Executor::fill(const Unit& u, std::byte* payload, CopyTuner* tuner) {
  if (!u.payload_bytes) return 0;
  const auto copy = [&](const void* from, size_t bytes) {
    if (tuner)
      tuner->copy(from, payload, bytes);
    else
      kernels().copy(from, payload, bytes);
    return bytes;
  };
  const Codec* codec = plan_->operation.codec.get();
  if (!codec || u.raw) {
    if (u.settle) settle(u);
    return copy(own_value(u), u.payload_bytes);
  }
  const bool slotted = u.slot != kNoSlot;
  Payload frame{payload, 0};
  if (u.encode) {
    // A completed value that starts here (broadcast, all_gather) has no residual: nobody sums it.
    float* loss = u.complete ? nullptr : residual(u);
    const float* debt = u.complete ? nullptr : owed(u);
    const auto* value = static_cast<const float*>(own_value(u));
    if (plan_->operation.dtype != DType::f32) {
      kernels().load(plan_->operation.dtype, own_value(u), debt, scratch_, u.count);
      value = scratch_;
      debt = nullptr;
    }
    std::byte* to = slotted ? frames_ + u.slot + kSlotHead : payload;
    frame.bytes = codec->encode(value, debt, piece(u, plan_->rank), to, loss);
    frame.data = slotted ? keep(u, frame.bytes) : to;
    if (u.adopt) adopt(u, frame);
  } else {
    frame = kept(u);
  }
  return slotted ? copy(frame.data, frame.bytes) : frame.bytes;
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
  if (lent) h.flags = kLent;
  write_header(h, expected);
  if (!header_equals(got, expected)) mismatch(peer, got, expected);
  if (lent && answer)
    return {static_cast<std::byte*>(output(u)), u.payload_bytes, static_cast<std::byte*>(output(u))};
  if (lent) return borrowed(peer, channel.peek(kHeaderBytes + sizeof(Loan)), u);
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
  if (u.payload_bytes) {
    if (u.kind == StepKind::recv)
      store_received(u, spans_[0]);
    else if (!folds_plainly(u))
      fold_coded(lane, u);
    else
      fold_raw(lane, u);
  }
  const size_t bytes = release(lane, u);
  if (trace_->on())
    trace_->add({u.kind == StepKind::recv ? "recv" : "reduce", start, Clock::now(), seq_,
                 lane.peers[u.first_peer], u.chunk, static_cast<int>(u.segment), bytes});
  return true;
}

// Frees the unit's messages, or answers them. Returns their bytes.
size_t Executor::release(const LanePlan& lane, const Unit& u) {
  size_t bytes = 0;
  bool has_payload = folds_plainly(u);  // the first answer: fold_raw has written it
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
      write_answer(lane, u, spans_[i], channel.answer_slot(), has_payload);
      channel.answer(most);
      has_payload = false;
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
    const Payload value = plan_->operation.codec && !u.raw
                              ? kept(u)
                              : Payload{static_cast<std::byte*>(output(u)), u.payload_bytes};
    kernels().copy(value.data, ask.lent ? ask.lent : message + kHeaderBytes, value.bytes);
    h.payload_bytes = value.bytes;
  }
  write_header(h, message);
}

void Executor::store_received(const Unit& u, Payload payload) {
  if (!plan_->operation.codec || u.raw) {
    if (payload.data != output(u)) kernels().copy(payload.data, output(u), payload.bytes);
    return;
  }
  if (u.keep_frame) kernels().copy(payload.data, keep(u, payload.bytes), payload.bytes);
  adopt(u, payload);
}

// The output becomes what the frame says.
void Executor::adopt(const Unit& u, Payload payload) {
  if (plan_->operation.dtype == DType::f32) {
    decode(u, payload, static_cast<float*>(output(u)), false);
  } else {
    decode(u, payload, scratch_, false);
    kernels().store(plan_->operation.dtype, scratch_, 1.0f, output(u), u.count);
  }
}

void Executor::decode(const Unit& u, Payload payload, float* out, bool add) const {
  const Codec& codec = *plan_->operation.codec;
  const Piece p = piece(u, 0);
  const size_t used = add ? codec.decode_add(payload.data, payload.bytes, p, out)
                          : codec.decode(payload.data, payload.bytes, p, out);
  if (used != payload.bytes)
    throw Error(ErrorKind::frame, "malformed payload: " + std::to_string(payload.bytes) + " bytes came, " +
                                      std::to_string(used) + " were needed");
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

// encoder: the rank whose frame it is; a decoder says 0.
Piece Executor::piece(const Unit& u, int encoder) const {
  return {.count = u.count, .first = u.first, .step = seq_, .stream = static_cast<uint32_t>(encoder)};
}

Payload Executor::kept(const Unit& u) const {
  size_t bytes;
  std::memcpy(&bytes, frames_ + u.slot, sizeof(bytes));
  return {frames_ + u.slot + kSlotHead, bytes};
}

// Notes the size of a frame; returns where its payload lies.
std::byte* Executor::keep(const Unit& u, size_t bytes) {
  std::memcpy(frames_ + u.slot, &bytes, sizeof(bytes));
  return frames_ + u.slot + kSlotHead;
}

const void* Executor::input(const Unit& u) const {
  return static_cast<const std::byte*>(buffers_.in) + u.in_offset * size_of(plan_->operation.dtype);
}
void* Executor::output(const Unit& u) const {
  return (u.staged ? partials_ : static_cast<std::byte*>(buffers_.out)) +
         u.out_offset * size_of(plan_->operation.dtype);
}
const float* Executor::owed(const Unit& u) const {
  return u.from_input || size_of(plan_->operation.dtype) == 2 ? residual(u) : nullptr;
}
float* Executor::residual(const Unit& u) const {
  return buffers_.residual ? buffers_.residual + u.in_offset : nullptr;
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
  for (const LanePlan& lane : plan_->lanes)  // peers still have what was lent
    if (lends_ && !lane.sends.empty()) return lane.sends.back().step;
  return -1;
}

std::string Executor::describe() const {
  return std::string(name(plan_->operation.collective)) + " #" + std::to_string(seq_);
}

}  // namespace gw
