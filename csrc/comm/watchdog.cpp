#include "comm/watchdog.hpp"

#include <algorithm>
#include <charconv>

namespace gw {
namespace {

// How long before its deadline an operation asks around: long enough for a loaded machine to answer, and never more
// than a fifth of the patience the user granted.
Deadline::Duration question_time(Deadline::Duration timeout) {
  return std::min<Deadline::Duration>(timeout / 5, std::chrono::seconds(1));
}

std::string shortest(double value) {
  char text[32];
  return {text, std::to_chars(text, text + sizeof text, value).ptr};
}

}  // namespace

Watchdog::Watchdog(Transport& transport, uint32_t epoch)
    : transport_(transport), epoch_(epoch), answers_(static_cast<size_t>(transport.size())) {}

void Watchdog::check(std::span<Work* const> active) {
  // In this order: an abort explains more than the broken connections that follow it.
  read_notices(active);
  check_peers(active);
  check_deadlines(active);
}

void Watchdog::read_notices(std::span<Work* const> active) {
  for (int p = 0; p < transport_.size(); ++p) {
    if (p == transport_.rank()) continue;
    ControlMessage message;
    while (transport_.control_receive(p, message)) {
      const auto notice = unpack(message);
      if (!notice || notice->epoch != epoch_) continue;  // noise, or a generation that is over
      if (notice->type == NoticeType::query) {
        Notice answer{.type = NoticeType::status, .nonce = notice->nonce};
        if (!active.empty()) {
          answer.seq = active[0]->executor.seq();
          const auto peers = active[0]->executor.waiting_for();
          if (!peers.empty()) answer.waiting_for = peers[0];
        }
        send(p, answer);
      } else if (notice->type == NoticeType::status) {
        answers_[static_cast<size_t>(p)] = {notice->nonce, notice->seq, notice->waiting_for};
      } else {
        announced_ = true;  // everyone hears it from the one that saw it first
        ErrorContext c = notice->context;
        c.rank = transport_.rank();
        throw Error(notice->kind, notice->text + " (reported by rank " + std::to_string(p) + ")", c);
      }
    }
  }
}

void Watchdog::check_peers(std::span<Work* const> active) {
  for (int p = 0; p < transport_.size(); ++p) {
    if (p == transport_.rank()) continue;
    const PeerState state = transport_.peer_state(p);
    if (state == PeerState::alive || active.empty()) continue;
    for (const Work* work : active) {
      const auto peers = work->executor.waiting_for();
      const bool needed = std::ranges::find(peers, p) != peers.end();
      // Who left in peace may have done its part; who broke off leaves the group incomplete either way.
      if (state == PeerState::left && !needed) continue;
      const char* how = state == PeerState::left ? " closed its communicator while "
                                                 : " died or lost its connection during ";
      throw Error(ErrorKind::peer_lost,
                  "rank " + std::to_string(p) + " (" + transport_.host(p) + ")" + how +
                      work->executor.describe() + (state == PeerState::left ? " still needed it" : ""),
                  context(*work, p));
    }
  }
}

void Watchdog::check_deadlines(std::span<Work* const> active) {
  for (const Work* work : active) {
    if (!work->deadline) continue;
    const auto left = work->deadline->at() - Deadline::Clock::now();
    if (left <= Deadline::Duration::zero()) time_out(*work);
    const std::pair asked_for(work->stream, work->executor.seq());
    if (left <= question_time(work->timeout) && asked_for_ != asked_for) {
      asked_for_ = asked_for;
      ask_everyone();
    }
  }
}

void Watchdog::ask_everyone() {
  ++nonce_;
  for (int p = 0; p < transport_.size(); ++p)
    if (p != transport_.rank()) send(p, {.type = NoticeType::query, .nonce = nonce_});
}

int Watchdog::culprit(const std::vector<int>& waiting_for, bool by_gpu) const {
  const auto silent = [&](int p) { return answers_[static_cast<size_t>(p)].nonce != nonce_; };
  int last = -1, idle = -1;  // the end of a chain: it answers, and waits for nobody
  for (int first : waiting_for) {
    // Whoever I wait for may itself be waiting; a chain is at most size long.
    int p = first;
    for (int hops = 0; hops < transport_.size() && p >= 0 && p < transport_.size() && p != transport_.rank();
         ++hops) {
      if (silent(p)) return p;
      last = p;
      p = answers_[static_cast<size_t>(p)].waiting_for;
    }
    if (idle < 0 && p < 0) idle = last;
  }
  for (int p = 0; p < transport_.size(); ++p)
    if (p != transport_.rank() && silent(p)) return p;
  // GPUs wait for all others at once, so a list of whom they missed begins with anybody
  if (by_gpu && idle >= 0) return idle;
  return waiting_for.empty() ? -1 : waiting_for[0];
}

void Watchdog::time_out(const Work& work) {
  const auto waiting_for = work.executor.waiting_for();
  const bool on_gpu = work.executor.waits_for_gpu(), by_gpu = !work.executor.missing_on_gpu().empty();
  const int p = on_gpu ? transport_.rank() : culprit(waiting_for, by_gpu);
  const double seconds = std::chrono::duration<double>(work.timeout).count();
  std::string text = work.executor.describe() + " did not finish within " + shortest(seconds) + " s";
  if (on_gpu) {
    text += ": the GPU of rank " + std::to_string(p) + " (" + transport_.host(p) +
            ") has not come so far; what was put on the stream before the call still runs";
  } else if (p >= 0) {
    const Answer& answer = answers_[static_cast<size_t>(p)];
    text += ": rank " + std::to_string(p) + " (" + transport_.host(p) + ") ";
    const char* silent = transport_.control_delivered(p)
                             ? "does not answer, but its host does: it is stopped, or busy outside gradwire"
                             : "does not answer, nor does its host: it is down or cut off";
    text +=
        answer.nonce != nonce_ ? silent
        : by_gpu
            ? "answers, but its GPU did not come so far: what was put on its stream before the call still "
              "runs, or the GPUs do not reach one another"
            : "answers, but is at operation #" + std::to_string(answer.seq) +
                  " and sends nothing: a link may be dropping data, or it is slow";
  }
  throw Error(ErrorKind::timeout, text + ". If the work is merely slow, pass a larger timeout",
              context(work, p));
}

void Watchdog::announce(const Error& error) {
  if (announced_) return;
  announced_ = true;
  if (error.kind() == ErrorKind::closed) return;  // the transport's goodbye says it
  for (int p = 0; p < transport_.size(); ++p)
    if (p != transport_.rank())
      send(p, {.type = NoticeType::abort,
               .kind = error.kind(),
               .context = error.context(),
               .text = error.what()});
}

void Watchdog::send(int peer, Notice notice) {
  notice.epoch = epoch_;
  transport_.control_send(peer, pack(notice));
}

ErrorContext Watchdog::context(const Work& work, int peer) const {
  return {.rank = transport_.rank(),
          .peer = peer,
          .host = peer < 0 ? "" : transport_.host(peer),
          .op = std::string(name(work.executor.plan().operation.collective)),
          .seq = work.executor.seq(),
          .step = work.executor.step()};
}

}  // namespace gw
