#include "comm/executor.hpp"

#include <algorithm>

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
  bool moved = false, finished = true;
  for (size_t l = 0; l < plan_->lanes.size(); ++l) {
    const LanePlan& lane = plan_->lanes[l];
    Cursor& c = cursors_[l];
    while (c.sends < lane.sends.size() && c.receives >= lane.sends[c.sends].after &&
           try_send(lane, lane.sends[c.sends])) {
      ++c.sends;
      moved = true;
    }
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
    done_ = true;
  }
  return moved;
}

// ---- sending ---------------------------------------------------------------------------------------------------

bool Executor::try_send(const LanePlan& lane, const Unit& u) {
  const int peer = lane.peers[u.first_peer];
  Channel& channel = transport_->channel(peer, lane.channel_lane);
  const size_t bytes = kHeaderBytes + u.payload_bytes;
  std::byte* message = channel.reserve(bytes);
  if (!message) return false;
  const auto start = trace_->on() ? Clock::now() : Clock::time_point{};
  write_header(header(lane, u), message);
  fill(u, message + kHeaderBytes, copy_tuners_[peer]);
  channel.commit(bytes);
  if (trace_->on())
    trace_->add({u.encode ? "encode+send" : "send", start, Clock::now(), seq_, peer, u.chunk,
                 static_cast<int>(u.segment), bytes});
  return true;
}

void Executor::fill(const Unit& u, std::byte* payload, CopyTuner& tuner) {
  if (!u.payload_bytes) return;
  const Codec* codec = plan_->operation.codec.get();
  if (!codec) {
    tuner.copy(own_value(u), payload, u.payload_bytes);
    return;
  }
  std::byte* frame = u.slot == kNoSlot ? payload : frames_ + u.slot;
  if (u.encode) {
    float* loss = residual(u);
    // A completed value that starts here (broadcast, all_gather) has no residual: nobody sums it.
    if (u.complete) loss = nullptr;
    const DType dtype = plan_->operation.dtype;
    kernels().load(dtype, own_value(u), u.complete ? nullptr : owed(u), scratch_, u.count);
    codec->encode(scratch_, u.count, frame, loss);
    if (u.adopt) store_received(u, frame);
  }
  if (frame != payload) tuner.copy(frame, payload, u.payload_bytes);
}

// ---- receiving -------------------------------------------------------------------------------------------------

// The payload of the unit's message from `peer`, once all of it is here; its header is checked first, against local
// geometry, so that a peer that runs something else is found out even if its message is shorter.
const std::byte* Executor::arrived(int peer, const LanePlan& lane, const Unit& u) {
  Channel& channel = transport_->channel(peer, lane.channel_lane);
  const std::byte* got = channel.peek(kHeaderBytes);
  if (!got) return nullptr;
  alignas(64) std::byte expected[kHeaderBytes];
  write_header(header(lane, u), expected);
  if (!header_equals(got, expected)) mismatch(peer, got, expected);
  const std::byte* whole = channel.peek(kHeaderBytes + u.payload_bytes);
  return whole ? whole + kHeaderBytes : nullptr;
}

bool Executor::try_receive(const LanePlan& lane, const Unit& u) {
  for (uint32_t i = 0; i < u.peers; ++i) {
    spans_[i] = arrived(lane.peers[u.first_peer + i], lane, u);
    if (!spans_[i]) return false;
  }
  const auto start = trace_->on() ? Clock::now() : Clock::time_point{};
  if (u.payload_bytes) {
    if (u.kind == StepKind::recv)
      store_received(u, spans_[0]);
    else if (plan_->operation.codec)
      fold_coded(lane, u);
    else
      fold_raw(lane, u);
  }
  const size_t bytes = kHeaderBytes + u.payload_bytes;
  for (uint32_t i = 0; i < u.peers; ++i)
    transport_->channel(lane.peers[u.first_peer + i], lane.channel_lane).consume(bytes);
  if (trace_->on())
    trace_->add({u.kind == StepKind::recv ? "recv" : "reduce", start, Clock::now(), seq_,
                 lane.peers[u.first_peer], u.chunk, static_cast<int>(u.segment), bytes * u.peers});
  return true;
}

void Executor::store_received(const Unit& u, const std::byte* payload) {
  const Codec* codec = plan_->operation.codec.get();
  if (!codec) {
    kernels().copy(payload, output(u), u.payload_bytes);
    return;
  }
  if (u.keep_frame) kernels().copy(payload, frames_ + u.slot, u.payload_bytes);
  if (plan_->operation.dtype == DType::f32) {
    codec->decode(payload, u.count, static_cast<float*>(output(u)));
  } else {
    codec->decode(payload, u.count, scratch_);
    kernels().store(plan_->operation.dtype, scratch_, 1.0f, output(u), u.count);
  }
}

// One pass over all sources in rank order, this rank at its own place.
void Executor::fold_raw(const LanePlan& lane, const Unit& u) {
  int n = 0;
  bool own_placed = false;
  for (uint32_t i = 0; i < u.peers; ++i) {
    if (!own_placed && lane.peers[u.first_peer + i] > plan_->rank) {
      sources_[n++] = own_value(u);
      own_placed = true;
    }
    sources_[n++] = spans_[i];
  }
  if (!own_placed) sources_[n++] = own_value(u);
  const Operation& op = plan_->operation;
  kernels().fold(op.dtype, op.op == ReduceOp::avg ? ReduceOp::sum : op.op, sources_, n,
                 u.complete ? plan_->scale : 1.0, output(u), nullptr, u.count);
}

void Executor::fold_coded(const LanePlan& lane, const Unit& u) {
  const Codec& codec = *plan_->operation.codec;
  const DType dtype = plan_->operation.dtype;
  const Kernels& k = kernels();
  float* loss = residual(u);
  bool first = true;
  const auto add_frame = [&](const std::byte* frame) {
    if (first)
      codec.decode(frame, u.count, scratch_);
    else
      codec.decode_add(frame, u.count, scratch_);
    first = false;
  };
  const auto add_own = [&] {
    if (u.own_frame) return add_frame(frames_ + u.slot);
    (first ? k.load : k.load_add)(dtype, own_value(u), owed(u), scratch_, u.count);
    first = false;
  };
  bool own_added = false;
  for (uint32_t i = 0; i < u.peers; ++i) {
    if (!own_added && lane.peers[u.first_peer + i] > plan_->rank) {
      add_own();
      own_added = true;
    }
    add_frame(spans_[i]);
  }
  if (!own_added) add_own();

  const float scale = u.complete ? static_cast<float>(plan_->scale) : 1.0f;
  if (u.encode) {
    // The owner encodes once and takes what it encoded, so that all replicas hold the same bits.
    if (scale != 1.0f) k.scale(scratch_, scale, u.count);
    codec.encode(scratch_, u.count, frames_ + u.slot, loss);
    // The residual is counted in units of one rank's share: what is lost of an average weighs size times as much.
    if (loss && scale != 1.0f) k.scale(loss, static_cast<float>(plan_->size), u.count);
    codec.decode(frames_ + u.slot, u.count, scratch_);
    k.store(dtype, scratch_, 1.0f, output(u), u.count);
  } else {
    if (loss && u.from_input && !u.own_frame)
      std::fill_n(loss, u.count, 0.0f);  // paid out above, nothing lost
    k.store(dtype, scratch_, scale, output(u), u.count);
    // What a 16-bit array cannot hold of a partial sum waits in the residual until the sum is sent on.
    if (loss && !u.complete && size_of(dtype) == 2) {
      k.load(dtype, output(u), nullptr, loss, u.count);
      for (size_t i = 0; i < u.count; ++i) loss[i] = scratch_[i] - loss[i];
    }
  }
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
  return h;
}

void Executor::mismatch(int peer, const std::byte* got, const std::byte* expected) const {
  const auto text = [](const std::byte* bytes) {
    const FrameHeader h = read_header(bytes);
    std::string_view algorithm = "";
    for (const Algorithm& a : algorithms())
      if (a.id == h.algorithm) algorithm = a.name;
    return gw::describe(h, name(static_cast<Collective>(h.collective)), algorithm);
  };
  throw Error(
      ErrorKind::mismatch,
      "ranks called different operations: rank " + std::to_string(plan_->rank) + " runs " + text(expected) +
          "; rank " + std::to_string(peer) + " (" + transport_->host(peer) + ") runs " + text(got) +
          ". Every rank must make the same calls in the same order with the same count, dtype, op and codec",
      {.rank = plan_->rank,
       .peer = peer,
       .host = transport_->host(peer),
       .op = std::string(name(plan_->operation.collective)),
       .seq = seq_,
       .step = step()});
}

const void* Executor::input(const Unit& u) const {
  return static_cast<const std::byte*>(buffers_.in) + u.in_offset * size_of(plan_->operation.dtype);
}
void* Executor::output(const Unit& u) const {
  return static_cast<std::byte*>(buffers_.out) + u.out_offset * size_of(plan_->operation.dtype);
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
        if (!transport_->channel(peer, lane.channel_lane).peek(kHeaderBytes + u.payload_bytes))
          peers.push_back(peer);
      }
    }
    if (c.sends < lane.sends.size() && c.receives >= lane.sends[c.sends].after)
      peers.push_back(lane.peers[lane.sends[c.sends].first_peer]);
  }
  return peers;
}

int Executor::step() const {
  for (size_t l = 0; l < plan_->lanes.size(); ++l) {
    const LanePlan& lane = plan_->lanes[l];
    if (cursors_[l].receives < lane.receives.size()) return lane.receives[cursors_[l].receives].step;
    if (cursors_[l].sends < lane.sends.size()) return lane.sends[cursors_[l].sends].step;
  }
  return -1;
}

std::string Executor::describe() const {
  return std::string(name(plan_->operation.collective)) + " #" + std::to_string(seq_);
}

}  // namespace gw
