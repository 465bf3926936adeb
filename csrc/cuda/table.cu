// The door of the plug-in: the one symbol that it exports, and what stands in the table.
#include <cstdio>
#include <cstring>

#include "cuda/kernels.cuh"
#include "cuda/plugin.h"

namespace gw::cuda {
namespace {

// Makes `device` the thread's current one for a call: everything below allocates and launches there.
class On {
 public:
  explicit On(int device) {
    error_ = cudaGetDevice(&before_);
    if (!error_ && before_ != device) error_ = cudaSetDevice(device);
    changed_ = !error_ && before_ != device;
  }
  ~On() {
    if (changed_) cudaSetDevice(before_);
  }
  On(const On&) = delete;
  On& operator=(const On&) = delete;
  template <class F>
  int run(F f) {
    return error_ ? static_cast<int>(error_) : static_cast<int>(f());
  }

 private:
  cudaError_t error_ = cudaSuccess;
  int before_ = 0;
  bool changed_ = false;
};

const char* error_text(int error) {
  if (error == GW_CUDA_NO_KERNEL) return "this codec has no CUDA kernels";
  return cudaGetErrorString(static_cast<cudaError_t>(error));
}
int device_count(int* count) { return cudaGetDeviceCount(count); }
int driver_version(int* version) { return cudaDriverGetVersion(version); }
int describe(int device, char* text, uint32_t size) {
  cudaDeviceProp p;
  if (const int error = cudaGetDeviceProperties(&p, device)) return error;
  std::snprintf(text, size, "%s, compute capability %d.%d", p.name, p.major, p.minor);
  return 0;
}
int device_of(const void* p, int* device) {
  cudaPointerAttributes a;
  const int error = cudaPointerGetAttributes(&a, p);
  *device = error || (a.type != cudaMemoryTypeDevice && a.type != cudaMemoryTypeManaged) ? -1 : a.device;
  if (error) cudaGetLastError();  // not a pointer that CUDA knows: an answer, no error
  return 0;
}
int allocate(int device, uint64_t bytes, void** p) {
  return On(device).run([&] { return cudaMalloc(p, bytes); });
}
int release(int device, void* p) {
  return On(device).run([&] { return cudaFree(p); });
}
cudaStream_t stream_of(void* p) { return static_cast<cudaStream_t>(p); }
int copy(int device, void* to, const void* from, uint64_t bytes, void* stream) {
  return On(device).run(
      [&] { return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_of(stream)); });
}
int stream_create(int device, void** stream) {
  cudaStream_t made = nullptr;
  const int error = On(device).run([&] { return cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking); });
  *stream = made;
  return error;
}
int stream_destroy(int device, void* stream) {
  return On(device).run([&] { return cudaStreamDestroy(stream_of(stream)); });
}
int synchronize(int device, void* stream) {
  return On(device).run([&] { return cudaStreamSynchronize(stream_of(stream)); });
}
int pin(int device, uint64_t bytes, void** p) {
  return On(device).run([&] { return cudaHostAlloc(p, bytes, cudaHostAllocPortable); });
}
int unpin(void* p) { return cudaFreeHost(p); }
cudaEvent_t event_of(void* p) { return static_cast<cudaEvent_t>(p); }
int event_create(int device, void** event) {
  cudaEvent_t made = nullptr;
  const int error = On(device).run([&] { return cudaEventCreateWithFlags(&made, cudaEventDisableTiming); });
  *event = made;
  return error;
}
int event_destroy(int device, void* event) {
  return On(device).run([&] { return cudaEventDestroy(event_of(event)); });
}
int event_record(int device, void* event, void* stream) {
  return On(device).run([&] { return cudaEventRecord(event_of(event), stream_of(stream)); });
}
int event_done(int device, void* event, int* done) {
  const int error = On(device).run([&] { return cudaEventQuery(event_of(event)); });
  *done = error == cudaSuccess;
  if (error == cudaErrorNotReady) cudaGetLastError();  // an answer, no error
  return error == cudaErrorNotReady ? 0 : error;
}
int stream_wait(int device, void* stream, void* event) {
  return On(device).run([&] { return cudaStreamWaitEvent(stream_of(stream), event_of(event), 0); });
}
int clear(int device, void* p, uint64_t bytes, void* stream) {
  return On(device).run([&] { return cudaMemsetAsync(p, 0, bytes, stream_of(stream)); });
}
int load_elements(const gw_cuda_elements* e) {
  return On(e->device).run([&] { return run_load(*e); });
}
int store_elements(const gw_cuda_elements* e) {
  return On(e->device).run([&] { return run_store(*e); });
}
int topk(const gw_cuda_topk* t) {
  return On(t->device).run([&] { return run_select(*t); });
}

int at_least(const gw_cuda_topk* t, float threshold, uint32_t* found) {
  return On(t->device).run([&] { return run_at_least(*t, threshold, found); });
}
int gather(const gw_cuda_places* p) {
  return On(p->device).run([&] { return run_gather(*p); });
}
int scatter(const gw_cuda_places* p, int add) {
  return On(p->device).run([&] { return run_scatter(*p, add != 0); });
}

Task task_of(const gw_cuda_codec& codec, const gw_cuda_piece& piece, const gw_cuda_array& array,
             const void* payload) {
  Task t{};
  t.codec = codec;
  t.step = piece.step;
  t.where = {piece.device, stream_of(piece.stream)};
  t.call.array = array.data;
  t.call.payload = static_cast<uint8_t*>(const_cast<void*>(payload));
  t.call.count = piece.count;
  t.call.first = piece.first;
  t.call.dtype = static_cast<DType>(array.dtype);
  t.call.block = codec.block;
  t.call.values = codec.values;
  t.call.key = Key(codec.seed, piece.step, piece.stream_id).key;
  return t;
}
// By whichever family the codec is of.
int run_family(const Task& t) {
  for (const auto family : {run_cast, run_quant, run_scaled, run_rotated, run_nvfp4, run_topk, run_randk})
    if (const int result = family(t); result != GW_CUDA_NO_KERNEL) return result;
  return GW_CUDA_NO_KERNEL;
}
int run(const Task& t) {
  if (t.call.count == 0) return 0;
  if (t.call.dtype != DType::f32 && t.call.dtype != DType::bf16 && t.call.dtype != DType::f16)
    return cudaErrorInvalidValue;
  return On(t.where.device).run([&] { return run_family(t); });
}
int encode(const gw_cuda_codec* codec, const gw_cuda_piece* piece, gw_cuda_array x, gw_cuda_residual residual,
           void* payload) {
  Task t = task_of(*codec, *piece, x, payload);
  t.call.owed = residual.owed;
  t.call.loss = residual.loss;
  t.call.residual = residual.kind;
  return run(t);
}
int decode(const gw_cuda_codec* codec, const gw_cuda_piece* piece, const void* payload, gw_cuda_array out,
           int add) {
  Task t = task_of(*codec, *piece, out, payload);
  t.decode = true;
  t.call.add = add != 0;
  return run(t);
}

int run_peers(const gw_cuda_exchange& e, int* most) {
  return On(e.device).run([&] {
    if (e.codec.id == GW_NO_CODEC) return run_values(e, most);
    Task t = task_of(e.codec, {}, {nullptr, e.dtype}, nullptr);
    t.where.exchange = &e;
    t.where.most = most;
    return run_family(t);
  });
}
int synchronize_device(int device) {
  return On(device).run([] { return cudaDeviceSynchronize(); });
}
int graph_begin(int device, void* stream) {
  return On(device).run(
      [&] { return cudaStreamBeginCapture(stream_of(stream), cudaStreamCaptureModeThreadLocal); });
}
int graph_end(int device, void* stream, void** graph) {
  return On(device).run([&] {
    cudaGraph_t recorded = nullptr;
    cudaGraphExec_t made = nullptr;
    cudaError_t error = cudaStreamEndCapture(stream_of(stream), &recorded);
    if (!error) error = cudaGraphInstantiate(&made, recorded, 0);
    if (recorded) cudaGraphDestroy(recorded);
    *graph = made;
    return error;
  });
}
int graph_launch(int device, void* graph, void* stream) {
  return On(device).run(
      [&] { return cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), stream_of(stream)); });
}
int graph_destroy(int device, void* graph) {
  return On(device).run([&] { return cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)); });
}
static_assert(sizeof(cudaIpcMemHandle_t) == sizeof(gw_cuda_handle));
int share(int device, void* p, gw_cuda_handle* handle) {
  return On(device).run([&] {
    cudaIpcMemHandle_t made;
    const cudaError_t error = cudaIpcGetMemHandle(&made, p);
    std::memcpy(handle, &made, sizeof(made));
    return error;
  });
}
int open_shared(int device, const gw_cuda_handle* handle, void** p) {
  return On(device).run([&] {
    cudaIpcMemHandle_t theirs;
    std::memcpy(&theirs, handle, sizeof(theirs));
    return cudaIpcOpenMemHandle(p, theirs, cudaIpcMemLazyEnablePeerAccess);
  });
}
int close_shared(int device, void* p) {
  return On(device).run([&] { return cudaIpcCloseMemHandle(p); });
}
int exchange(const gw_cuda_exchange* e) { return run_peers(*e, nullptr); }
int most_blocks_of(const gw_cuda_exchange* e, int* blocks) { return run_peers(*e, blocks); }

}  // namespace
}  // namespace gw::cuda

extern "C" __attribute__((visibility("default"))) int gradwire_cuda_table(uint32_t version, uint32_t size,
                                                                          gw_cuda_table* out) {
  using namespace gw::cuda;
  static const gw_cuda_table table = {GW_CUDA_VERSION,
                                      sizeof(gw_cuda_table),
                                      error_text,
                                      device_count,
                                      driver_version,
                                      describe,
                                      device_of,
                                      allocate,
                                      release,
                                      copy,
                                      stream_create,
                                      stream_destroy,
                                      synchronize,
                                      encode,
                                      decode,
                                      pin,
                                      unpin,
                                      event_create,
                                      event_destroy,
                                      event_record,
                                      event_done,
                                      stream_wait,
                                      clear,
                                      load_elements,
                                      store_elements,
                                      select_bytes,
                                      topk,
                                      exchange,
                                      most_blocks_of,
                                      synchronize_device,
                                      graph_begin,
                                      graph_end,
                                      graph_launch,
                                      graph_destroy,
                                      share,
                                      open_shared,
                                      close_shared,
                                      gather,
                                      scatter,
                                      at_least};
  if (version != GW_CUDA_VERSION || size > sizeof(table)) return 1;
  std::memcpy(out, &table, size);
  return 0;
}
