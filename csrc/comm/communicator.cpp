#include "comm/communicator.hpp"

#include <memory_resource>

#include "codec/kernels.hpp"
#include "comm/gpu_call.hpp"
#include "comm/host_peers.hpp"
#include "comm/peer_choice.hpp"

namespace gw {
namespace {

constexpr size_t kMostPlans = 1024;  // shapes kept per communicator; a training loop has a few dozen

std::string sized(const View& v) { return std::string(name(v.dtype)) + "[" + std::to_string(v.count) + "]"; }

std::string where(const View& v) {
  return v.device < 0 ? "in CPU memory" : "on GPU " + std::to_string(v.device);
}
void check_device(const char* what, const View& x, const View& other) {
  if (other.device != x.device)
    fail_argument(std::string(what) + " is " + where(other) + ", the array is " + where(x) +
                  ": all arrays of a call must be in one place, move one (torch: y.to(x.device), CuPy: "
                  "cupy.asarray(y))");
}

std::vector<uint8_t> peers_in_memory(const Transport& t) {
  std::vector<uint8_t> shared(static_cast<size_t>(t.size()));
  for (int p = 0; p < t.size(); ++p) shared[static_cast<size_t>(p)] = p != t.rank() && t.shares_memory(p);
  return shared;
}

// What a plan must know of the paths, the same on every rank.
PlanSettings settings_for(const Transport& t, const Config& config) {
  const size_t channel_bytes = t.channel_bytes();
  const size_t segment_bytes = config.segment_bytes ? config.segment_bytes : channel_bytes / 8;
  return {
      .segment_bytes = segment_bytes, .channel_bytes = channel_bytes, .shares_memory = peers_in_memory(t)};
}

Topology found(const Transport& t) {
  Topology topology;
  for (int p = 0; p < t.size(); ++p) topology.host.push_back(t.host_number(p));
  return topology;
}

}  // namespace

size_t Communicator::KeyHash::operator()(const Key& k) const {
  const Operation& o = k.operation;
  size_t h = o.count;
  const auto mix = [&h](size_t v) { h = (h ^ v) * 0x9E3779B97F4A7C15u + (h >> 29); };
  mix(static_cast<size_t>(o.collective) | static_cast<size_t>(o.op) << 8 |
      static_cast<size_t>(o.dtype) << 16 | static_cast<size_t>(o.peer + 1) << 24 |
      static_cast<size_t>(o.with_residual) << 56);
  mix(reinterpret_cast<size_t>(o.codec.get()));
  mix(o.tag);
  mix(std::hash<std::string_view>{}(k.asked));
  mix(k.by_peers);
  return h;
}

Communicator::Communicator(std::unique_ptr<Transport> transport, uint32_t epoch, const Config& config)
    : rank_(transport->rank()),
      size_(transport->size()),
      epoch_(epoch),
      config_(config),
      costs_(default_costs(*transport)),
      settings_(settings_for(*transport, config)),
      topology_(found(*transport)),
      topology_hash_(topology_.hash()),
      engine_(std::move(transport), epoch, config) {}

void Communicator::set_topology(Topology topology) {
  topology.check(size_);
  std::lock_guard lock(plans_mutex_);
  topology_ = std::move(topology);
  topology_hash_ = topology_.hash();
  forget_plans();
}

void Communicator::set_costs(Costs costs) {
  costs.check(size_);
  std::lock_guard lock(plans_mutex_);
  costs_ = std::move(costs);
  forget_plans();
}

void Communicator::use_gpu_peers(size_t one_shot_below) {
  std::lock_guard lock(plans_mutex_);
  one_shot_below_ = one_shot_below;
  forget_plans();
}

Work Communicator::prepare(Collective collective, const View& in, const View& out,
                           const CallOptions& options) {
  Prepared p = check_and_plan(collective, in, out, options);
  return Work(std::move(p.plan), p.buffers, p.timeout);
}

std::shared_ptr<Work> Communicator::prepare_shared(Collective collective, const View& in, const View& out,
                                                   const CallOptions& options) {
  // Its memory is used again by later calls. Never destroyed: the caller may keep a Work for as long as he likes.
  static auto* const pool = new std::pmr::synchronized_pool_resource;
  Prepared p = check_and_plan(collective, in, out, options);
  return std::allocate_shared<Work>(std::pmr::polymorphic_allocator<Work>(pool), std::move(p.plan), p.buffers,
                                    p.timeout);
}

void Communicator::run(Work& work) {
  try {
    engine_.run(work);
  } catch (...) {
    work.order();
    throw;
  }
  work.order();
}

// ---- arguments ---------------------------------------------------------------------------------------------------

// A lossless codec changes no result, so where it cannot work the bytes simply travel as they are.
bool Communicator::goes_coded(DType dtype, const CallOptions& o) {
  if (!o.codec || o.codec->id() == kRawCodec) return false;
  return o.codec->lossy() ||
         (is_float(dtype) && size_of(dtype) <= 4 && (o.op == ReduceOp::sum || o.op == ReduceOp::avg));
}

size_t Communicator::checked_count(Collective collective, const View& in, const View& out) const {
  if (in.dtype != out.dtype)
    fail_argument("input and output must have the same dtype, got " + sized(in) + " and " + sized(out));
  const auto n = static_cast<size_t>(size_);
  const View& shared = collective == Collective::all_gather ? in : out;
  const View& whole = collective == Collective::all_gather ? out : in;
  switch (collective) {
    case Collective::reduce_scatter:
    case Collective::all_gather:
      if (whole.count != shared.count * n)
        fail_argument("the larger array must hold size x the smaller one's elements: " + std::to_string(n) +
                      " x " + std::to_string(shared.count) + " = " + std::to_string(n * shared.count) +
                      ", got " + std::to_string(whole.count));
      return shared.count;
    case Collective::all_to_all:
      if (in.count != out.count || in.count % n)
        fail_argument("all_to_all needs two arrays of the same size, a multiple of " + std::to_string(n) +
                      " elements, got " + sized(in) + " and " + sized(out));
      return in.count / n;
    default:
      return in.count;
  }
}

void Communicator::check_reduction(Collective collective, DType dtype, const CallOptions& o) const {
  const bool reduces = collective == Collective::all_reduce || collective == Collective::reduce_scatter;
  if (o.op == ReduceOp::avg && !is_float(dtype))
    fail_argument("op 'avg' needs a float dtype, got " + std::string(name(dtype)) +
                  ": use op='sum' and divide");
  if (o.codec && o.codec->lossy()) {
    if (!is_float(dtype))
      fail_argument("codec " + o.codec->description() + " is lossy and works on floats, got " +
                    std::string(name(dtype)) + ": pass codec=None");
    if (reduces && o.op != ReduceOp::sum && o.op != ReduceOp::avg)
      fail_argument("codec " + o.codec->description() + " is lossy and works on sums and averages, got op '" +
                    std::string(name(o.op)) + "': pass codec=None");
  }
  if (o.residual && (!o.codec || !o.codec->lossy()))
    fail_argument("a residual needs a lossy codec: without one nothing is lost");
}

Communicator::Prepared Communicator::check_and_plan(Collective collective, const View& in, const View& out,
                                                    const CallOptions& o) {
  check_device("the output", in, out);
  if (o.residual) check_device("the residual", in, *o.residual);
  const size_t count = checked_count(collective, in, out);
  check_reduction(collective, in.dtype, o);
  if (o.residual) {
    if (o.residual->dtype != DType::f32 || o.residual->count != in.count)
      fail_argument("the residual must be float32[" + std::to_string(in.count) + "] like the array, got " +
                    sized(*o.residual));
  }
  const bool p2p = collective == Collective::send || collective == Collective::recv;
  if (p2p || collective == Collective::broadcast) {
    const char* what = p2p ? "peer" : "root";
    if (o.peer < 0 || o.peer >= size_ || (p2p && o.peer == rank_))
      fail_argument(std::string(what) + " must be a" + (p2p ? "nother" : "") + " rank from 0 to " +
                    std::to_string(size_ - 1) + ", got " + std::to_string(o.peer));
  }
  const double seconds = o.timeout_s.value_or(config_.timeout_s);
  if (!(seconds > 0)) fail_argument("timeout must be positive seconds, got " + std::to_string(seconds));

  Operation operation{.collective = collective,
                      .op = o.op,
                      .dtype = in.dtype,
                      .count = count,
                      .codec = goes_coded(in.dtype, o) ? o.codec : nullptr,
                      .algorithm = {},
                      .peer = p2p || collective == Collective::broadcast ? o.peer : -1,
                      .tag = o.tag,
                      .in_place = !has_shares(collective),
                      .with_residual = o.residual.has_value()};
  Prepared p;
  p.plan = plan_for(operation, o.algorithm, in.device);
  p.buffers = {in.data, out.data, o.residual ? static_cast<float*>(o.residual->data) : nullptr};
  if (in.device >= 0) {
    p.buffers.gpu = std::make_shared<GpuCall>(in, out);
    p.buffers.gpu->timeout = Deadline::duration(seconds);
  } else if (p.plan->lends) {
    p.buffers.in_loan = Arena::loan_of(in.data, in.bytes());
    p.buffers.out_loan = in.data == out.data ? p.buffers.in_loan : Arena::loan_of(out.data, out.bytes());
    // a block that is received lands where one lay that was sent
    if (collective == Collective::all_to_all && in.data == out.data) p.buffers.in_loan.reset();
  }
  p.timeout = Deadline::duration(seconds);
  return p;
}

// ---- algorithms and plans ----------------------------------------------------------------------------------------

Choice Communicator::choose(Collective collective, size_t count, DType dtype, const CodecPtr& codec) const {
  const bool lossy = codec && codec->lossy();
  const size_t shares = has_shares(collective) ? static_cast<size_t>(size_) : 1;
  const size_t raw = count * shares * size_of(dtype);
  Question q{.collective = collective,
             .size = size_,
             .raw_bytes = raw,
             .segment_bytes = settings_.segment_bytes,
             .link = costs_.slowest(),
             .topology = topology_,
             .links = costs_.links,
             .machine = costs_.machine,
             .cores = costs_.cores};
  q.lossy = lossy;
  q.size_invariant = config_.deterministic == "size-invariant";
  q.rounding = is_float(dtype) && size_of(dtype) == 2;
  if (lossy && raw)
    q.wire_ratio = static_cast<double>(codec->encoded_bytes(count * shares)) / static_cast<double>(raw);
  // until it is measured: of one core, same origin as the links
  constexpr CodecRate kUnknown{1 / 4e9, 1 / 4e9};
  q.gamma_s_per_byte = costs_.reduce_s_per_byte;
  if (lossy) {
    const auto known = costs_.codecs.find(codec->description());
    const CodecRate rate = known == costs_.codecs.end() ? kUnknown : known->second;
    q.encode_s_per_byte = rate.encode_s_per_byte;
    q.decode_s_per_byte = rate.decode_s_per_byte;
  }
  const auto trials = [this](const std::string& name) {
    const auto found = costs_.trials.find(name);
    return found == costs_.trials.end() ? nullptr : &found->second;
  };
  if (collective == Collective::all_reduce) {
    q.plain_trials = trials("");
    if (lossy) q.trials = trials(codec->description());
  }
  // Where nothing was measured prices are too rough to tell neighbours apart.
  constexpr double kRough = 0.1;
  if (!q.plain_trials) q.tolerance = kRough;
  return select(q);
}

// last_ borrows a key
void Communicator::forget_plans() {
  last_.reset();
  plans_.clear();
}

std::string Communicator::peers_choice(const Operation& op) const {
  const bool lossy = op.codec && op.codec->lossy();
  if (lossy && config_.deterministic == "size-invariant") return "one_shot";
  return peer_algorithm(op.count * size_of(op.dtype), *one_shot_below_);
}

void Communicator::check_size_invariant(const Operation& op, const Schedule& schedule) const {
  const bool owned = op.codec && op.codec->lossy() && schedule.lossy_encodes > 1;
  if (config_.deterministic == "size-invariant" && op.collective == Collective::all_reduce &&
      (schedule.nested_sums > 1 || owned))
    fail_argument(
        "algorithm \"" + std::string(op.algorithm) +
        "\" gives bits that depend on the size, which deterministic=\"size-invariant\" rules out: take "
        "\"one_shot\" or \"auto\", or without a lossy codec \"direct\"");
}

std::shared_ptr<const Plan> Communicator::plan_for(Operation operation, std::string_view asked, int device) {
  std::lock_guard lock(plans_mutex_);
  const bool all_reduce = operation.collective == Collective::all_reduce;
  Key key{operation, asked, one_shot_below_ && device >= 0 && all_reduce && size_ > 1};
  if (last_ && *last_->first == key) return last_->second;  // loops repeat themselves
  if (const auto it = plans_.find(key); it != plans_.end()) {
    last_ = {&it->first, it->second};
    return it->second;
  }
  const bool kernels = key.by_peers && gpu::has_exchange(operation.codec.get(), operation.dtype, device);
  Schedule schedule;
  uint8_t id = 0;
  if (operation.collective == Collective::send || operation.collective == Collective::recv) {
    schedule = p2p_schedule(operation.collective, rank_, size_, operation.peer);
  } else {
    const std::string chosen =
        !asked.empty() ? std::string(asked)
        : kernels ? peers_choice(operation)
                  : choose(operation.collective, operation.count, operation.dtype, operation.codec).algorithm;
    const Algorithm& a = algorithm(chosen);
    operation.algorithm = a.name;
    id = a.id;
    schedule = make_schedule(a.name, {operation.collective, rank_, size_, operation.peer, topology_});
    check_size_invariant(operation, schedule);
  }
  PlanSettings settings = settings_;
  settings.topology = id ? topology_hash_ : 0;
  const bool by_peers = kernels && !schedule.raw;
  auto plan =
      by_peers ? make_meeting_plan(operation, schedule, id, epoch_, settings, topology_, sizeof(PeerAddress))
               : make_plan(operation, schedule, id, epoch_, settings);
  if (plans_.size() >= kMostPlans) forget_plans();
  // The key must not borrow the caller's string: point it at the registry's copy.
  operation.algorithm = {};
  plans_.emplace(Key{operation, asked.empty() ? asked : plan->operation.algorithm, key.by_peers}, plan);
  return plan;
}

}  // namespace gw
