#include "cuda/gpu.hpp"

#include <dlfcn.h>

#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "base/config.hpp"
#include "base/error.hpp"
#include "codec/registry.hpp"
#include "cuda/plugin.h"

namespace gw::gpu {
namespace {

[[noreturn]] void fail(const std::string& message) { throw Error(ErrorKind::gpu, message); }

static_assert(static_cast<int>(ResidualKind::fp32) == GW_RESIDUAL_FP32 &&
              static_cast<int>(ResidualKind::bf16) == GW_RESIDUAL_BF16 &&
              static_cast<int>(ResidualKind::int8) == GW_RESIDUAL_INT8);

constexpr int kNoDevice = 100, kOldDriver = 35;  // cudaErrorNoDevice, cudaErrorInsufficientDriver

struct Plugin {
  Status status;
  gw_cuda_table table{};
};

// Beside the module that holds this function.
std::string beside(const char* name) {
  Dl_info info;
  std::string path = dladdr(reinterpret_cast<void*>(&beside), &info) && info.dli_fname ? info.dli_fname : "";
  return path.substr(0, path.rfind('/') + 1) + name;
}

void look_at_devices(Plugin& p) {
  int count = 0, driver = 0;
  const int error = p.table.device_count(&count);
  p.table.driver_version(&driver);
  // without a driver cudart says that the driver is too old
  if (driver == 0 && error) {
    p.status.text = "no NVIDIA driver on this machine (libcuda.so.1 is not there)";
  } else if (error == kOldDriver) {
    p.status.text = "the NVIDIA driver runs CUDA up to " + std::to_string(driver / 1000) + "." +
                    std::to_string(driver % 1000 / 10) + ", too old for this build of gradwire: update it";
  } else if (error == kNoDevice || (!error && count == 0)) {
    p.status.text = "no GPU is visible to this process: see nvidia-smi and CUDA_VISIBLE_DEVICES";
  } else if (error) {
    p.status.text = p.table.error_text(error);
  } else {
    p.status.usable = true;
    for (int d = 0; d < count; ++d) {
      char text[300] = "?";
      p.table.describe(d, text, sizeof text);
      p.status.gpus.emplace_back(text);
      p.status.text += (d ? "; " : "") + std::to_string(d) + ": " + text;
    }
    p.status.text +=
        "; driver for CUDA " + std::to_string(driver / 1000) + "." + std::to_string(driver % 1000 / 10);
  }
}

Plugin load() {
  Plugin p;
  const std::string choice = Config::from_env().gpu;
  if (choice == "off") {
    p.status.text = "switched off by GRADWIRE_GPU=off";
    return p;
  }
  p.status.simulated = choice == "sim";
  const std::string path = beside(p.status.simulated ? "libgradwire_cusim.so" : "libgradwire_cuda.so");
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const std::string why = dlerror();
    p.status.text =
        why.find("No such file") == why.npos ? "the CUDA plug-in does not load: " + why
        : p.status.simulated
            ? "the simulator is not built: GRADWIRE_GPU=sim make test builds it"
            : "this build has CPU kernels only: install gradwire where nvcc is found (made with CUDA 13)";
    return p;
  }
  p.status.built = true;
  const auto table = reinterpret_cast<gw_cuda_table_function>(dlsym(library, GW_CUDA_SYMBOL));
  if (!table || table(GW_CUDA_VERSION, sizeof p.table, &p.table) != 0)
    p.status.text = path + " is of another version of gradwire: reinstall";
  else
    look_at_devices(p);
  return p;
}

const Plugin& plugin() {
  static const Plugin p = load();
  return p;
}

const gw_cuda_table& table() {
  const Plugin& p = plugin();
  if (!p.status.usable) fail("GPU arrays cannot be used here, copy them to the CPU: " + p.status.text);
  return p.table;
}

void check(int error, const char* what) {
  if (error) fail(std::string("CUDA: ") + what + ": " + table().error_text(error));
}

gw_cuda_codec codec_of(const Codec& codec) {
  const auto shape = shape_of(codec);
  if (!shape)
    fail_argument("codec " + codec.description() + " was registered in Python: it works on CPU arrays only");
  return {codec.id(), shape->block, shape->k, shape->values, shape->seed};
}
gw_cuda_piece piece_of(const Piece& piece, const View& v) {
  return {piece.count, piece.first, piece.step, piece.stream, v.device, v.stream};
}
void check_run(int error, const Codec& codec, const char* what) {
  if (error == GW_CUDA_NO_KERNEL)
    fail_argument("codec " + codec.description() +
                  " has no CUDA kernels in this version; copy the array to the CPU");
  check(error, what);
}
void check_dtype(const View& v) {
  if (v.dtype != DType::f32 && v.dtype != DType::bf16 && v.dtype != DType::f16)
    fail_argument("on a GPU codecs take float32, bfloat16 and float16, got " + std::string(name(v.dtype)));
}

}  // namespace

Status status() { return plugin().status; }

int device_of(const void* p) {
  int device = -1;
  check(table().device_of(p, &device), "looking up an address");
  if (device < 0) fail_argument("the array's address is not GPU memory");
  return device;
}
void* allocate(int device, size_t bytes) {
  void* p = nullptr;
  check(table().allocate(device, bytes, &p), "allocating memory");
  return p;
}
void release(int device, void* p) noexcept { plugin().table.release(device, p); }
void copy(int device, void* to, const void* from, size_t bytes, void* stream) {
  check(table().copy(device, to, from, bytes, stream), "copying");
  synchronize(device, stream);
}
void synchronize(int device, void* stream) {
  check(table().synchronize(device, stream), "waiting for a stream");
}
void synchronize_device(int device) { check(table().synchronize_device(device), "waiting for the device"); }

void copy_later(int device, void* to, const void* from, size_t bytes, void* stream) {
  if (bytes) check(table().copy(device, to, from, bytes, stream), "copying");
}
void clear(int device, void* p, size_t bytes, void* stream) {
  if (bytes) check(table().clear(device, p, bytes, stream), "clearing memory");
}
void* pin(int device, size_t bytes) {
  void* p = nullptr;
  check(table().pin(device, bytes, &p), "allocating pinned memory");
  return p;
}
void unpin(void* p) noexcept { plugin().table.unpin(p); }

Stream::Stream(int device) : device_(device) {
  check(table().stream_create(device, &stream_), "making a stream");
}
Stream::~Stream() { plugin().table.stream_destroy(device_, stream_); }

Event::Event(int device) : device_(device) {
  check(table().event_create(device, &event_), "making an event");
}
Event::~Event() { plugin().table.event_destroy(device_, event_); }
void Event::record(void* stream) {
  check(table().event_record(device_, event_, stream), "recording an event");
}
bool Event::passed() const {
  int done = 0;
  check(table().event_done(device_, event_, &done), "work that was queued before");
  return done != 0;
}
void Event::hold_back(void* stream) const {
  check(table().stream_wait(device_, stream, event_), "ordering two streams");
}

void encode(const Codec& codec, const View& x, const Piece& piece, const Residual& residual, void* payload) {
  check_dtype(x);
  const auto c = codec_of(codec);
  const auto p = piece_of(piece, x);
  check_run(table().encode(&c, &p, {x.data, static_cast<uint32_t>(x.dtype)},
                           {residual.owed, residual.loss, static_cast<uint32_t>(residual.kind)}, payload),
            codec, "encoding");
}
void decode(const Codec& codec, const void* payload, const Piece& piece, const View& out, bool add) {
  check_dtype(out);
  const auto c = codec_of(codec);
  const auto p = piece_of(piece, out);
  check_run(table().decode(&c, &p, payload, {out.data, static_cast<uint32_t>(out.dtype)}, add), codec,
            "decoding");
}

void load(const View& array, const float* residual, float* values, bool add) {
  check_dtype(array);
  const gw_cuda_elements e{{array.data, static_cast<uint32_t>(array.dtype)},
                           const_cast<float*>(residual),
                           values,
                           array.count,
                           1.0f,
                           add,
                           array.device,
                           array.stream};
  check(table().load(&e), "widening values");
}
void store(const float* values, float scale, const View& array, float* rounded_off) {
  check_dtype(array);
  const gw_cuda_elements e{{array.data, static_cast<uint32_t>(array.dtype)},
                           rounded_off,
                           const_cast<float*>(values),
                           array.count,
                           scale,
                           0,
                           array.device,
                           array.stream};
  check(table().store(&e), "rounding values");
}

bool has_kernels(const Codec& codec, DType dtype, int device) {
  if (dtype != DType::f32 && dtype != DType::bf16 && dtype != DType::f16) return false;
  const auto shape = shape_of(codec);
  if (!shape || !codec.fixed_size()) return false;
  static std::mutex mutex;
  static std::map<std::pair<uint8_t, uint32_t>, bool> known;
  const std::lock_guard lock(mutex);
  const auto [at, fresh] = known.try_emplace({codec.id(), codec.wire_params()}, false);
  if (!fresh) return at->second;
  const size_t count = codec.block(), values_bytes = count * sizeof(float);
  void* memory = allocate(device, values_bytes + codec.encoded_bytes(count));
  const auto c = codec_of(codec);
  const gw_cuda_piece piece{count, 0, 0, 0, device, nullptr};
  table().clear(device, memory, values_bytes, nullptr);
  const int error = table().encode(&c, &piece, {memory, static_cast<uint32_t>(DType::f32)}, {},
                                   static_cast<std::byte*>(memory) + values_bytes);
  release(device, memory);
  if (error != GW_CUDA_NO_KERNEL) check(error, "trying a codec");
  return at->second = error == 0;
}

size_t topk_bytes(size_t count, size_t k) { return table().topk_bytes(count, k); }
namespace {
gw_cuda_topk selection_of(const View& x, const View& values, const View& indices, void* scratch) {
  check_dtype(x);
  if (x.count >> 31)
    fail_argument("on a GPU topk takes fewer than 2^31 elements, got " + std::to_string(x.count));
  return {{x.data, static_cast<uint32_t>(x.dtype)}, x.count, values.count, static_cast<float*>(values.data),
          static_cast<int64_t*>(indices.data),      scratch, x.device,     x.stream};
}
gw_cuda_places places_of(const View& x, const View& places, const View& values) {
  check_dtype(x);
  return {{x.data, static_cast<uint32_t>(x.dtype)},
          x.count,
          static_cast<const int64_t*>(places.data),
          static_cast<float*>(values.data),
          places.count,
          x.device,
          x.stream};
}
}  // namespace

void topk(const View& x, const View& values, const View& indices, void* scratch) {
  const gw_cuda_topk t = selection_of(x, values, indices, scratch);
  check(table().topk(&t), "selecting");
}
size_t at_least(const View& x, float threshold, const View& values, const View& indices, void* scratch) {
  const gw_cuda_topk t = selection_of(x, values, indices, scratch);
  uint32_t found = 0;
  void* there = allocate(x.device, sizeof(found));
  const int error = table().at_least(&t, threshold, static_cast<uint32_t*>(there));
  if (!error) copy(x.device, &found, there, sizeof(found), x.stream);
  release(x.device, there);
  check(error, "selecting");
  return found;
}
void gather(const View& x, const View& places, const View& values) {
  const gw_cuda_places p = places_of(x, places, values);
  check(table().gather(&p), "gathering");
}
void scatter(const View& values, const View& places, const View& x, bool add) {
  const gw_cuda_places p = places_of(x, places, values);
  check(table().scatter(&p, add), "scattering");
}

Graph::Graph(const Stream& stream) : device_(stream.device()), recorded_on_(stream.get()) {
  check(table().graph_begin(device_, recorded_on_), "beginning to record a graph");
}
Graph::~Graph() {
  if (recording_) table().graph_end(device_, recorded_on_, &graph_);
  if (graph_) table().graph_destroy(device_, graph_);
}
void Graph::finish() {
  recording_ = false;
  check(table().graph_end(device_, recorded_on_, &graph_), "recording a graph");
}
void Graph::launch(void* stream) const {
  check(table().graph_launch(device_, graph_, stream), "launching a graph");
}

gw_cuda_handle share(int device, void* p) {
  gw_cuda_handle handle;
  check(table().share(device, p, &handle), "sharing memory with other processes");
  return handle;
}
void* open_shared(int device, const gw_cuda_handle& handle) {
  void* p = nullptr;
  check(table().open_shared(device, &handle, &p), "mapping the memory of another process");
  return p;
}
void close_shared(int device, void* p) noexcept { plugin().table.close_shared(device, p); }

void describe(const Codec* codec, gw_cuda_exchange& e) {
  e.codec = codec ? codec_of(*codec) : gw_cuda_codec{GW_NO_CODEC, 0, 0, 0, 0};
  e.lossy = codec && codec->lossy();
  int blocks;
  if (table().most_blocks(&e, &blocks) == GW_CUDA_NO_KERNEL)
    fail_argument(
        "codec " + codec->description() +
        " has no kernels that exchange values between ranks of a GPU: its size depends on the values. "
        "Use one of a fixed size, such as int4 or topk");
}
bool has_exchange(const Codec* codec, DType dtype, int device) {
  if (dtype != DType::f32 && dtype != DType::bf16 && dtype != DType::f16) return false;
  if (!codec) return true;
  if (!shape_of(*codec) || !codec->fixed_size()) return false;
  gw_cuda_exchange e{};
  e.codec = codec_of(*codec);
  e.dtype = static_cast<uint32_t>(dtype);
  e.device = device;
  int blocks = 0;
  const int error = table().most_blocks(&e, &blocks);
  if (error != GW_CUDA_NO_KERNEL) check(error, "asking for the blocks that run at once");
  return error == 0;
}
int most_blocks(const gw_cuda_exchange& e) {
  int blocks = 0;
  check(table().most_blocks(&e, &blocks), "asking for the blocks that run at once");
  return blocks;
}
void exchange(const gw_cuda_exchange& e) { check(table().exchange(&e), "launching an exchange"); }

}  // namespace gw::gpu
