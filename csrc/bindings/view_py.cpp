#include "bindings/view_py.hpp"

#include <optional>
#include <string>
#include <string_view>

#include "base/error.hpp"
#include "bindings/device_array.hpp"
#include "cuda/gpu.hpp"

namespace py = pybind11;

namespace gw {
namespace {

// The part of DLPack 0.x/1.x that a borrowed CPU array needs (https://dmlc.github.io/dlpack, C ABI).
struct DlDevice {
  int32_t type, id;
};
struct DlType {
  uint8_t code, bits;
  uint16_t lanes;
};
struct DlTensor {
  void* data;
  DlDevice device;
  int32_t ndim;
  DlType dtype;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};
// The table of C functions behind type(x).__dlpack_c_exchange_api__ (DLPack 1.3; torch 2.10). Its head stays as it is
// for one major version.
struct DlExchange {
  uint32_t major, minor;
  void* previous;
  void *allocate, *managed_from, *managed_to;
  int (*tensor_from)(void* object, DlTensor* out);  // borrows; 0, or -1 and a Python error
};
constexpr int32_t kDlCpu = 1;

[[noreturn]] void not_contiguous(const char* remedy) {
  fail_argument(std::string("the array is not contiguous; gradwire works in place on flat memory: ") +
                remedy);
}

[[noreturn]] void bad_dtype(const std::string& got) {
  fail_argument("dtype not supported: " + got +
                "; expected float32, float64, bfloat16, float16, int32, int64 or uint8");
}

std::optional<DType> known_dtype(std::string_view n) {
  for (auto d : {DType::f32, DType::f64, DType::bf16, DType::f16, DType::i32, DType::i64, DType::u8})
    if (name(d) == n) return d;
  return std::nullopt;
}

// ---- torch: data_ptr, no import, no compile-time dependency --------------------------------------------------

struct TorchNames {
  py::object tensor;  // torch.Tensor, once torch has been seen
  py::object dtypes[8];
  const DlExchange* exchange = nullptr;  // null: a torch without it
  PyObject *data_ptr, *numel, *dtype, *is_contiguous, *device, *type, *is_cpu;
};
TorchNames* torch_names() {
  static TorchNames* names = [] {
    auto* n = new TorchNames;
    n->data_ptr = PyUnicode_InternFromString("data_ptr");
    n->numel = PyUnicode_InternFromString("numel");
    n->dtype = PyUnicode_InternFromString("dtype");
    n->is_contiguous = PyUnicode_InternFromString("is_contiguous");
    n->is_cpu = PyUnicode_InternFromString("is_cpu");
    n->device = PyUnicode_InternFromString("device");
    return n;
  }();
  return names;
}

bool is_torch_tensor(py::handle x) {
  TorchNames* n = torch_names();
  if (!n->tensor) {
    const char* type_name = Py_TYPE(x.ptr())->tp_name;
    const std::string_view t(type_name);
    if (t != "Tensor" && t != "Parameter" && t != "torch.Tensor") return false;
    py::dict modules = py::module_::import("sys").attr("modules");
    if (!modules.contains("torch")) return false;
    py::object torch = modules["torch"];
    n->tensor = torch.attr("Tensor");
    for (auto d : {DType::f32, DType::f64, DType::bf16, DType::f16, DType::i32, DType::i64, DType::u8})
      n->dtypes[static_cast<int>(d)] = torch.attr(std::string(name(d)).c_str());
    if (py::hasattr(n->tensor, "__dlpack_c_exchange_api__")) {
      const py::object capsule = n->tensor.attr("__dlpack_c_exchange_api__");
      const auto* table =
          static_cast<const DlExchange*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
      if (!table) PyErr_Clear();
      if (table && table->major == 1) n->exchange = table;
    }
  }
  return PyObject_TypeCheck(x.ptr(), reinterpret_cast<PyTypeObject*>(n->tensor.ptr()));
}

py::object call(py::handle x, PyObject* method) {
  PyObject* r = PyObject_CallMethodNoArgs(x.ptr(), method);
  if (!r) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(r);
}
py::object attribute(py::handle x, PyObject* attr) {
  PyObject* r = PyObject_GetAttr(x.ptr(), attr);
  if (!r) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(r);
}

// Null: a dtype that gradwire does not know, or not contiguous.
std::optional<View> view_of_dl(const DlTensor& t) {
  static constexpr DType kKnown[] = {DType::f32, DType::f64, DType::bf16, DType::f16,
                                     DType::i32, DType::i64, DType::u8};
  static constexpr DlType kTypes[] = {{2, 32, 1}, {2, 64, 1}, {4, 16, 1}, {2, 16, 1},
                                      {0, 32, 1}, {0, 64, 1}, {1, 8, 1}};
  int64_t count = 1;
  for (int i = t.ndim - 1; i >= 0; --i) {
    if (t.strides && t.shape[i] > 1 && t.strides[i] != count) return std::nullopt;
    count *= t.shape[i];
  }
  for (int d = 0; d < 7; ++d)
    if (t.dtype.code == kTypes[d].code && t.dtype.bits == kTypes[d].bits && t.dtype.lanes == 1)
      return View{static_cast<char*>(t.data) + t.byte_offset, static_cast<size_t>(count), kKnown[d]};
  return std::nullopt;
}

View torch_view(py::handle x) {
  TorchNames* n = torch_names();
  if (n->exchange && n->exchange->tensor_from) {
    DlTensor t;
    if (n->exchange->tensor_from(x.ptr(), &t) != 0)
      PyErr_Clear();
    else if (t.device.type == kDlCpu)
      if (const auto v = view_of_dl(t)) return *v;
    // what is wrong is said below
  }
  View v;
  if (attribute(x, n->is_cpu).ptr() != Py_True) {
    const py::object device = attribute(x, n->device);
    if (std::string(py::str(device.attr("type"))) != "cuda")
      fail_argument("the tensor is on " + std::string(py::str(device)) +
                    "; gradwire works on CPU and CUDA tensors: call .cpu() first");
    v.device = device.attr("index").cast<int>();
    const py::object stream = py::module_::import("torch").attr("cuda").attr("current_stream")(device);
    v.stream = PyLong_AsVoidPtr(py::object(stream.attr("cuda_stream")).ptr());
  }
  const py::object dtype = attribute(x, n->dtype);
  int d = 1;
  while (d < 8 && n->dtypes[d].ptr() != dtype.ptr()) ++d;
  if (d == 8) bad_dtype(py::str(dtype));
  v.dtype = static_cast<DType>(d);
  if (call(x, n->is_contiguous).ptr() != Py_True)
    not_contiguous("pass x.contiguous() and copy the result back");
  v.count = PyLong_AsSize_t(call(x, n->numel).ptr());
  v.data = PyLong_AsVoidPtr(call(x, n->data_ptr).ptr());
  return v;
}

// ---- buffer protocol: NumPy, bytearray, array.array, memoryview ----------------------------------------------

std::optional<DType> dtype_of_format(const char* format, Py_ssize_t itemsize) {
  std::string_view f(format ? format : "B");
  if (!f.empty() && (f[0] == '=' || f[0] == '@' || f[0] == '<')) f.remove_prefix(1);
  if (f.size() != 1) return std::nullopt;
  switch (f[0]) {
    case 'f':
      return DType::f32;
    case 'd':
      return DType::f64;
    case 'e':
      return DType::f16;
    case 'B':
      return DType::u8;
    case 'i':
    case 'l':
    case 'q':
      return itemsize == 4 ? std::optional(DType::i32) : std::optional(DType::i64);
    default:
      return std::nullopt;
  }
}

View buffer_view(py::handle x, bool writable) {
  Py_buffer b;
  if (PyObject_GetBuffer(x.ptr(), &b, PyBUF_FORMAT | PyBUF_STRIDES) != 0) throw py::error_already_set();
  struct Release {
    Py_buffer* b;
    ~Release() { PyBuffer_Release(b); }
  } release{&b};
  const auto dtype = dtype_of_format(b.format, b.itemsize);
  if (!dtype) bad_dtype(std::string("buffer format '") + (b.format ? b.format : "") + "'");
  if (!PyBuffer_IsContiguous(&b, 'C'))
    not_contiguous("pass numpy.ascontiguousarray(x) and copy the result back");
  if (writable && b.readonly)
    fail_argument("the array is read-only; this operation writes into it: pass a writable copy");
  return View{b.buf, static_cast<size_t>(b.len) / static_cast<size_t>(b.itemsize), *dtype};
}

// ---- DLPack ----------------------------------------------------------------------------------------------------

View dlpack_view(py::handle x) {
  py::object capsule = x.attr("__dlpack__")();
  auto* t = static_cast<DlTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
  if (!t) throw py::error_already_set();
  if (t->device.type != kDlCpu)
    fail_argument("the array is on a device (DLPack type " + std::to_string(t->device.type) +
                  "); this build of gradwire works on CPU arrays");
  static constexpr std::string_view kKinds[] = {"int", "uint", "float", "?", "bfloat"};
  const std::string kind =
      std::string(t->dtype.code < 5 ? kKinds[t->dtype.code] : "?") + std::to_string(t->dtype.bits);
  const auto dtype = t->dtype.lanes == 1 ? known_dtype(kind) : std::nullopt;
  if (!dtype) bad_dtype("DLPack " + kind);
  int64_t count = 1;
  for (int i = t->ndim - 1; i >= 0; --i) {
    if (t->strides && t->shape[i] > 1 && t->strides[i] != count) not_contiguous("pass a contiguous copy");
    count *= t->shape[i];
  }
  return View{static_cast<char*>(t->data) + t->byte_offset, static_cast<size_t>(count), *dtype};
}

// ---- GPU arrays: CuPy, Numba and others, and gradwire's own ---------------------------------------------------

// Of the array's memory and the stream on which it is ready, which for CuPy is the caller's current one.
View cuda_view(py::handle x, bool writable) {
  if (py::isinstance<DeviceArray>(x)) return x.cast<const DeviceArray&>().view();
  const py::dict i = x.attr("__cuda_array_interface__");
  const auto typestr = i["typestr"].cast<std::string>();
  std::optional<DType> dtype;
  if (typestr == "<V2" && py::hasattr(x, "dtype")) dtype = known_dtype(std::string(py::str(x.attr("dtype"))));
  if (!dtype && typestr.size() == 3 && typestr[0] != '>') {
    const char format[] = {typestr[2] == '2' ? 'e' : typestr[2] == '8' ? 'd' : 'f', 0};
    if (typestr[1] == 'f') dtype = dtype_of_format(format, typestr[2] - '0');
    if (typestr[1] == 'i' && typestr[2] >= '4') dtype = dtype_of_format("i", typestr[2] - '0');
    if (typestr == "|u1") dtype = DType::u8;
  }
  if (!dtype) bad_dtype("typestr '" + typestr + "'");
  View v{.dtype = *dtype};
  v.count = 1;
  const py::tuple shape = i["shape"];
  for (size_t d = shape.size(); d-- > 0; v.count *= shape[d].cast<size_t>())
    if (i.contains("strides") && !i["strides"].is_none() && shape[d].cast<size_t>() > 1 &&
        py::tuple(i["strides"])[d].cast<py::ssize_t>() !=
            static_cast<py::ssize_t>(v.count * size_of(v.dtype)))
      not_contiguous("pass a contiguous copy (CuPy: cupy.ascontiguousarray(x)) and copy the result back");
  const py::tuple data = i["data"];
  if (writable && data[1].cast<bool>())
    fail_argument("the array is read-only; this operation writes into it: pass a writable copy");
  v.data = PyLong_AsVoidPtr(py::object(data[0]).ptr());
  v.device = v.data ? gpu::device_of(v.data) : 0;
  if (i.contains("stream") && !i["stream"].is_none())
    v.stream = PyLong_AsVoidPtr(py::object(i["stream"]).ptr());
  return v;
}

}  // namespace

void check_count(const char* what, size_t expected, size_t got) {
  if (expected != got)
    fail_argument(std::string(what) + ": expected " + std::to_string(expected) + " elements, got " +
                  std::to_string(got));
}

DType dtype_named(std::string_view text) {
  const auto dtype = known_dtype(text);
  if (!dtype) bad_dtype(std::string(text));
  return *dtype;
}

View view_of(py::handle x, bool writable) {
  const View v = any_view_of(x, writable);
  if (v.device >= 0)
    fail_argument("the array, a " + std::string(Py_TYPE(x.ptr())->tp_name) +
                  ", is in GPU memory; this operation works on CPU arrays: copy it first (torch: x.cpu(), "
                  "CuPy: x.get())");
  return v;
}

View any_view_of(py::handle x, bool writable) {
  if (is_torch_tensor(x)) return torch_view(x);
  if (PyObject_CheckBuffer(x.ptr())) {
    // ml_dtypes' bfloat16 arrays refuse the buffer protocol's format; they know DLPack
    try {
      return buffer_view(x, writable);
    } catch (py::error_already_set& e) {
      if (!py::hasattr(x, "__array_interface__")) throw;
      py::dict i = x.attr("__array_interface__");
      const std::string dtype = py::str(x.attr("dtype"));
      const DType d = dtype_named(dtype);
      if (!i["strides"].is_none()) not_contiguous("pass numpy.ascontiguousarray(x) and copy the result back");
      const py::tuple data = i["data"];
      if (writable && data[1].cast<bool>())
        fail_argument("the array is read-only; this operation writes into it: pass a writable copy");
      return View{PyLong_AsVoidPtr(py::object(data[0]).ptr()), x.attr("size").cast<size_t>(), d};
    }
  }
  if (py::hasattr(x, "__cuda_array_interface__")) return cuda_view(x, writable);
  if (py::hasattr(x, "__dlpack__")) return dlpack_view(x);
  fail_argument("expected an array (NumPy, torch, DLPack or buffer protocol), got " +
                std::string(Py_TYPE(x.ptr())->tp_name));
}

}  // namespace gw
