// A Python object as a codec. Its methods run with the GIL held, on whichever thread drives the communicator: every
// caller of a codec has given the GIL up before, so taking it here cannot lock up. Sizes are tables made at
// registration, so geometry never calls Python. Memory that Python sees is a copy: it may keep it.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "base/error.hpp"
#include "bindings/view_py.hpp"
#include "codec/user_codecs.hpp"

namespace py = pybind11;

namespace gw {
namespace {

class PyCodec final : public Codec {
 public:
  // sizes[n]: bytes of n elements, n = 0 .. block. encode(x, first, step, stream), decode(payload, count, first, step).
  PyCodec(std::string name, std::vector<size_t> sizes, py::object encode, py::object decode)
      : name_(std::move(name)),
        sizes_(std::move(sizes)),
        params_(user_codec_hash(name_, block(), sizes_)),
        encode_(encode.release().ptr()),
        decode_(decode.release().ptr()) {}

  uint8_t id() const override { return kUserCodec; }
  uint32_t wire_params() const override { return params_; }
  const std::string& name() const override { return name_; }
  std::string description() const override { return name_; }
  bool lossy() const override { return true; }
  size_t block() const override { return sizes_.size() - 1; }
  bool fixed_size() const override { return true; }
  size_t encoded_bytes(size_t count) const override {
    return count / block() * sizes_.back() + sizes_[count % block()];
  }

  size_t encode(const float* x, const float* owed, const Piece& piece, std::byte* payload,
                float* loss) const override {
    const size_t n = piece.count, room = encoded_bytes(n);
    if (!n) return 0;
    std::vector<float> values(x, x + n);
    if (owed) std::transform(x, x + n, owed, values.begin(), std::plus<>());
    in_python("encode", [&] {
      const py::array_t<float> array(static_cast<py::ssize_t>(n), values.data());
      const py::object result = encode_(array, piece.first, piece.step, piece.stream);
      const View v = view_of(result, false);
      if (v.dtype != DType::u8 || v.count != room)
        fail("encode", "it must return " + std::to_string(room) + " bytes for " + std::to_string(n) +
                           " elements, got " + std::string(gw::name(v.dtype)) + "[" +
                           std::to_string(v.count) + "]");
      std::memcpy(payload, v.data, room);
    });
    if (loss) {
      std::vector<float> decoded(n);
      decode(payload, room, piece, decoded.data());
      std::transform(values.begin(), values.end(), decoded.begin(), loss,
                     [](float v, float d) { return std::isfinite(v - d) ? v - d : 0.0f; });
    }
    return room;
  }

  size_t decode(const std::byte* payload, size_t bytes, const Piece& piece, float* out) const override {
    const size_t n = piece.count, need = encoded_bytes(n);
    if (bytes < need)
      throw Error(ErrorKind::frame, "malformed payload: codec " + name_ + " needs " + std::to_string(need) +
                                        " bytes for " + std::to_string(n) + " elements, got " +
                                        std::to_string(bytes));
    if (!n) return 0;
    in_python("decode", [&] {
      const py::array_t<uint8_t> array(static_cast<py::ssize_t>(need),
                                       reinterpret_cast<const uint8_t*>(payload));
      const py::object result = decode_(array, n, piece.first, piece.step);
      const View v = view_of(result, false);
      if (v.dtype != DType::f32 || v.count != n)
        fail("decode", "it must return float32[" + std::to_string(n) + "], got " +
                           std::string(gw::name(v.dtype)) + "[" + std::to_string(v.count) + "]");
      std::memcpy(out, v.data, n * sizeof(float));
    });
    return need;
  }

  size_t decode_add(const std::byte* payload, size_t bytes, const Piece& piece, float* acc) const override {
    std::vector<float> decoded(piece.count);
    const size_t used = decode(payload, bytes, piece, decoded.data());
    for (size_t i = 0; i < piece.count; ++i) acc[i] += decoded[i];
    return used;
  }

 private:
  [[noreturn]] void fail(const char* method, const std::string& what) const {
    throw Error(ErrorKind::codec, "registered codec " + name_ + ", " + method + "(): " + what);
  }

  // Nothing of Python leaves this function: an exception becomes an Error with its text.
  template <class Body>
  void in_python(const char* method, Body body) const {
    const py::gil_scoped_acquire gil;
    std::string raised;
    try {
      return body();
    } catch (py::error_already_set& e) {
      raised = e.what();
    } catch (const py::builtin_exception& e) {
      raised = e.what();
    }
    fail(method, "it raised " + raised);
  }

  const std::string name_;
  const std::vector<size_t> sizes_;
  const uint32_t params_;
  const py::handle encode_, decode_;  // never released: see users() in user_codecs.cpp
};

}  // namespace

void register_user_codec(py::module_& m) {
  m.def("user_codec_names", &user_codec_names);
  m.def(
      "add_user_codec",
      [](const std::string& name, std::vector<size_t> sizes, py::object encode, py::object decode) {
        add_user_codec(
            std::make_shared<PyCodec>(name, std::move(sizes), std::move(encode), std::move(decode)));
      },
      py::arg("name"), py::arg("sizes"), py::arg("encode"), py::arg("decode"));
}

}  // namespace gw
