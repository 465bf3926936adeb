// gradwire._native.gpu: the functions of the module itself for arrays in GPU memory. The work is put on the array's stream.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "base/error.hpp"
#include "bindings/device_array.hpp"
#include "bindings/view_py.hpp"
#include "codec/codec.hpp"
#include "codec/sample.hpp"
#include "cuda/gpu.hpp"

namespace py = pybind11;

namespace gw {

void register_peers(py::module_& m);  // peers_py.cpp

namespace {

View on_gpu(py::handle array, const char* what, bool writable) {
  const View v = any_view_of(array, writable);
  if (v.device < 0)
    fail_argument(std::string(what) + " must be in GPU memory, as the other arrays of the call");
  return v;
}
void check_device(const char* what, const View& x, const View& other) {
  if (other.device != x.device)
    fail_argument(std::string(what) + " is on GPU " + std::to_string(other.device) + ", x on GPU " +
                  std::to_string(x.device) + ": all arrays of a call must be on one");
}
void check_bytes(const char* what, const View& x, const View& bytes, size_t expected) {
  check_device(what, x, bytes);
  if (bytes.dtype != DType::u8)
    fail_argument(std::string(what) + " must be uint8 bytes, got " + std::string(name(bytes.dtype)));
  check_count(what, expected, bytes.count);
}
void check_fixed(const Codec& codec) {
  if (!codec.fixed_size())
    fail_argument("codec " + codec.description() +
                  ": its size depends on the values, which a GPU does not tell in time");
}

// By its dtype: float32, bfloat16, or the bytes of int8(block=64).
gpu::Residual residual_of(py::handle array, const View& x) {
  if (array.is_none()) return {};
  const View r = on_gpu(array, "residual", true);
  check_device("residual", x, r);
  if (r.dtype == DType::u8) {
    CodecParams params;
    params.block = 64;
    static const CodecPtr rest = make_codec("int8", params);
    check_count("residual as int8(block=64)", rest->encoded_bytes(x.count), r.count);
    return {r.data, r.data, gpu::ResidualKind::int8};
  }
  if (r.dtype != DType::f32 && r.dtype != DType::bf16)
    fail_argument("residual must be float32, bfloat16 or the bytes of int8(block=64), got " +
                  std::string(name(r.dtype)));
  check_count("residual", x.count, r.count);
  return {r.data, r.data, r.dtype == DType::f32 ? gpu::ResidualKind::fp32 : gpu::ResidualKind::bf16};
}

// Between two arrays, at least one of which is on a GPU. With one in host memory it is done when it returns.
void copy(py::handle target, py::handle source) {
  const View to = any_view_of(target, true), from = any_view_of(source, false);
  if (to.dtype != from.dtype)
    fail_argument("copy: the target is " + std::string(name(to.dtype)) + ", the source " +
                  std::string(name(from.dtype)));
  check_count("copy", to.count, from.count);
  const View& there = to.device >= 0 ? to : from;
  if (there.device < 0) fail_argument("copy: neither array is in GPU memory");
  py::gil_scoped_release released;
  if (to.device == from.device) return gpu::copy_later(to.device, to.data, from.data, to.bytes(), to.stream);
  if (to.device >= 0 && from.device >= 0) gpu::synchronize_device(from.device);
  if (to.count) gpu::copy(there.device, to.data, from.data, to.bytes(), there.stream);
}

void clear(py::handle array) {
  const View x = on_gpu(array, "x", true);
  gpu::clear(x.device, x.data, x.bytes(), x.stream);
}

size_t quantize(py::handle array, const Codec& codec, py::handle payload, uint64_t step, py::handle residual,
                size_t first, uint32_t stream) {
  const View x = on_gpu(array, "x", false);
  check_fixed(codec);
  const View to = on_gpu(payload, "payload", true);
  check_bytes("payload", x, to, codec.encoded_bytes(x.count));
  const gpu::Residual r = residual_of(residual, x);
  py::gil_scoped_release released;
  gpu::encode(codec, x, {.count = x.count, .first = first, .step = step, .stream = stream}, r, to.data);
  return to.count;
}

void dequantize(py::handle payload, const Codec& codec, py::handle array, uint64_t step, size_t first,
                bool add) {
  const View out = on_gpu(array, "out", true);
  check_fixed(codec);
  const View from = on_gpu(payload, "payload", false);
  check_bytes("payload", out, from, codec.encoded_bytes(out.count));
  py::gil_scoped_release released;
  gpu::decode(codec, from.data, {.count = out.count, .first = first, .step = step}, out, add);
}

View floats_for(const char* what, const View& x, py::handle array) {
  const View v = on_gpu(array, what, true);
  check_device(what, x, v);
  if (v.dtype != DType::f32)
    fail_argument(std::string(what) + " must be float32, got " + std::string(name(v.dtype)));
  check_count(what, x.count, v.count);
  return v;
}
float* floats_or_null(const char* what, const View& x, py::handle array) {
  return array.is_none() ? nullptr : static_cast<float*>(floats_for(what, x, array).data);
}

void load(py::handle array, py::handle values, py::handle residual, bool add) {
  const View x = on_gpu(array, "x", false);
  gpu::load(x, floats_or_null("residual", x, residual),
            static_cast<float*>(floats_for("values", x, values).data), add);
}
void store(py::handle values, py::handle array, float scale, py::handle rounded_off) {
  const View x = on_gpu(array, "x", true);
  gpu::store(static_cast<const float*>(floats_for("values", x, values).data), scale, x,
             floats_or_null("rounded_off", x, rounded_off));
}

// Elements of x and where they are.
struct Elements {
  View values, places;
};
Elements elements_of(const View& x, py::handle values, py::handle places, bool write_values,
                     bool write_places) {
  const Elements e{on_gpu(values, "values", write_values), on_gpu(places, "indices", write_places)};
  if (e.values.dtype != DType::f32 || e.places.dtype != DType::i64)
    fail_argument("values must be float32 and indices int64");
  check_count("indices", e.values.count, e.places.count);
  check_device("values", x, e.values);
  check_device("indices", x, e.places);
  return e;
}
void check_k(const View& x, size_t k) {
  if (k > x.count)
    fail_argument("k must be at most " + std::to_string(x.count) + ", the number of elements; got " +
                  std::to_string(k));
}

void topk(py::handle array, size_t k, py::handle values, py::handle indices, py::handle scratch) {
  const View x = on_gpu(array, "x", false), s = on_gpu(scratch, "scratch", true);
  check_k(x, k);
  const Elements kept = elements_of(x, values, indices, true, true);
  check_count("values", k, kept.values.count);
  check_bytes("scratch", x, s, gpu::topk_bytes(x.count, k));
  py::gil_scoped_release released;
  gpu::topk(x, kept.values, kept.places, s.data);
}

size_t select_at_least(py::handle array, float threshold, py::handle values, py::handle indices,
                       py::handle scratch) {
  const View x = on_gpu(array, "x", false), s = on_gpu(scratch, "scratch", true);
  const Elements kept = elements_of(x, values, indices, true, true);
  if (!(threshold > 0)) fail_argument("threshold must be above 0");
  check_bytes("scratch", x, s, gpu::topk_bytes(x.count, kept.values.count));
  py::gil_scoped_release released;
  return gpu::at_least(x, threshold, kept.values, kept.places, s.data);
}

// The choice does not depend on the values: it is made here, as on the CPU, and sent to the GPU.
void randk(py::handle array, uint64_t seed, uint64_t step, py::handle values, py::handle indices) {
  const View x = on_gpu(array, "x", false);
  const Elements kept = elements_of(x, values, indices, true, true);
  check_k(x, kept.values.count);
  py::gil_scoped_release released;
  std::vector<int64_t> chosen(kept.places.count);
  sample_indices(seed, step, x.count, chosen.size(), chosen.data());
  if (chosen.empty()) return;
  gpu::copy(x.device, kept.places.data, chosen.data(), kept.places.bytes(), x.stream);
  gpu::gather(x, kept.places, kept.values);
}

void scatter(py::handle values, py::handle indices, py::handle array, bool add) {
  const View x = on_gpu(array, "x", true);
  const Elements from = elements_of(x, values, indices, false, false);
  gpu::scatter(from.values, from.places, x, add);
}

}  // namespace

void register_device(py::module_& m) {
  py::module_ g = m.def_submodule("gpu", "The same for arrays in GPU memory");
  register_device_array(g);
  register_peers(g);
  g.def("status", [] {
    const gpu::Status s = gpu::status();
    py::dict d;
    d["usable"] = s.usable;
    d["built"] = s.built;
    d["simulated"] = s.simulated;
    d["gpus"] = s.gpus;
    d["text"] = s.text;
    return d;
  });
  g.def("quantize", &quantize, py::arg("x"), py::arg("codec"), py::arg("payload"), py::arg("step") = 0,
        py::arg("residual") = py::none(), py::arg("first") = 0, py::arg("stream") = 0);
  g.def("dequantize", &dequantize, py::arg("payload"), py::arg("codec"), py::arg("out"), py::arg("step") = 0,
        py::arg("first") = 0, py::arg("add") = false);
  g.def("copy", &copy, py::arg("target"), py::arg("source"));
  g.def("clear", &clear, py::arg("x"));
  g.def("topk_bytes", &gpu::topk_bytes, py::arg("count"), py::arg("k"));
  g.def("topk", &topk, py::arg("x"), py::arg("k"), py::arg("values"), py::arg("indices"), py::arg("scratch"));
  g.def("select_at_least", &select_at_least, py::arg("x"), py::arg("threshold"), py::arg("values"),
        py::arg("indices"), py::arg("scratch"));
  g.def("randk", &randk, py::arg("x"), py::arg("seed"), py::arg("step"), py::arg("values"),
        py::arg("indices"));
  g.def("scatter", &scatter, py::arg("values"), py::arg("indices"), py::arg("x"), py::arg("add") = false);
  g.def("load", &load, py::arg("x"), py::arg("values"), py::arg("residual") = py::none(),
        py::arg("add") = false);
  g.def("store", &store, py::arg("values"), py::arg("x"), py::arg("scale") = 1.0f,
        py::arg("rounded_off") = py::none());
}

}  // namespace gw
