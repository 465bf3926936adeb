// The library's side of the plug-in: loaded when the first GPU array comes, and not before. All functions may be called by
// any thread. They throw Error(gpu) that says what is missing: the plug-in, the driver, a GPU, or what CUDA reported.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "base/view.hpp"
#include "codec/codec.hpp"

struct gw_cuda_exchange;  // plugin.h
struct gw_cuda_handle;

namespace gw::gpu {

// What `gradwire doctor` says; never throws. usable: GPU arrays work; text: the devices and versions, or what is missing.
struct Status {
  bool usable = false;
  bool built = false;             // the plug-in is there
  bool simulated = false;         // GRADWIRE_GPU=sim
  std::vector<std::string> gpus;  // what each is
  std::string text;               // of all, or what is missing
};
Status status();

// How a residual lies in memory: as fp32, or coded by the codec bf16 or int8(block=64).
enum class ResidualKind : int { none, fp32, bf16, int8 };
struct Residual {
  const void* owed = nullptr;
  void* loss = nullptr;
  ResidualKind kind = ResidualKind::none;
};

// Throws Error(argument) unless the address is GPU memory.
int device_of(const void* p);
void* allocate(int device, size_t bytes);
void release(int device, void* p) noexcept;
// Any direction; waits until it is done.
void copy(int device, void* to, const void* from, size_t bytes, void* stream);
void synchronize(int device, void* stream);
void synchronize_device(int device);  // all of its streams

// What follows puts work on a stream and does not wait for it.
void copy_later(int device, void* to, const void* from, size_t bytes, void* stream);
void clear(int device, void* p, size_t bytes, void* stream);
// Host memory that the device copies from and to by itself.
void* pin(int device, size_t bytes);
void unpin(void* p) noexcept;

class Stream {
 public:
  explicit Stream(int device);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  int device() const { return device_; }
  void* get() const { return stream_; }

 private:
  int device_;
  void* stream_;
};

// A moment of a stream. One that was never recorded has passed.
class Event {
 public:
  explicit Event(int device);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(void* stream);
  bool passed() const;
  void hold_back(void* stream) const;  // what is put on `stream` from now on runs after this moment

 private:
  int device_;
  void* event_;
};

// What a stream was given between its making and finish(), to be given again as often as wanted.
class Graph {
 public:
  explicit Graph(const Stream& stream);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  void finish();  // once, also after an error in between
  void launch(void* stream) const;

 private:
  int device_;
  void *recorded_on_, *graph_ = nullptr;
  bool recording_ = true;
};

// Work is put on array.stream of array.device and not waited for. dtypes: float32, bfloat16, float16. Throws
// Error(argument) for another, or a codec without kernels.
void encode(const Codec& codec, const View& x, const Piece& piece, const Residual& residual, void* payload);
void decode(const Codec& codec, const void* payload, const Piece& piece, const View& out, bool add);

// Between an array and fp32, on the array's stream: load, load_add and store of codec/kernels.hpp. rounded_off, if not null:
// values - array after the store.
void load(const View& array, const float* residual, float* values, bool add);
void store(const float* values, float scale, const View& array, float* rounded_off = nullptr);
// Whether arrays of this dtype can be coded by kernels. The first question about a codec tries it.
bool has_kernels(const Codec& codec, DType dtype, int device);

// ops.topk: values and indices of the values.count largest magnitudes. scratch: topk_bytes(x.count, values.count) of x's GPU,
// aligned to 16, which may be freed in the order of x's stream.
size_t topk_bytes(size_t count, size_t k);
void topk(const View& x, const View& values, const View& indices, void* scratch);
// The magnitudes of x that are at least `threshold` > 0, in index order, as far as there is room for them in values and indices;
// returns how many there are, for which it waits. scratch as for topk.
size_t at_least(const View& x, float threshold, const View& values, const View& indices, void* scratch);
// values[i] = x[places[i]], and the reverse; with add x[places[i]] += values[i]. values float32, places int64, each place once
// and inside x.
void gather(const View& x, const View& places, const View& values);
void scatter(const View& values, const View& places, const View& x, bool add);

// Memory of `allocate` for other processes of this host, and theirs for this one.
gw_cuda_handle share(int device, void* p);
void* open_shared(int device, const gw_cuda_handle& handle);
void close_shared(int device, void* p) noexcept;

// Exchanges among ranks that read one another's memory (plugin.h). describe: the codec's part of it, null: none. Throws
// Error(argument) for a codec without such kernels. exchange launches and does not wait.
void describe(const Codec* codec, gw_cuda_exchange& e);
bool has_exchange(const Codec* codec, DType dtype, int device);
int most_blocks(const gw_cuda_exchange& e);
void exchange(const gw_cuda_exchange& e);

}  // namespace gw::gpu
