// Launches the kernels of a row codec.
#pragma once
#include "cuda/peer_rows.cuh"

namespace gw::cuda {

inline dim3 row_grid(const CodeCall& call, Where where) {
  const size_t blocks = (call.count + kSpan * kWarps - 1) / (kSpan * kWarps),
               most = most_blocks(where.device);
  return {static_cast<unsigned>(blocks < most ? blocks : most), 1, 1};
}
template <class Codec>
int run_rows(const CodeCall& call, bool decode, Where where) {
  if (where.exchange) return run_exchange(exchange_rows<Codec>, *where.exchange, where.most);
  return launch(decode ? code_rows<Codec, true> : code_rows<Codec, false>, row_grid(call, where), kThreads,
                where.stream, call);
}

}  // namespace gw::cuda
