// Table of contents of the native module; each room registers itself in its own file.
#include <pybind11/pybind11.h>

namespace gw {
void register_base(pybind11::module_& m);
void register_codec(pybind11::module_& m);
void register_changes(pybind11::module_& m);
void register_low_rank(pybind11::module_& m);
void register_sparse(pybind11::module_& m);
void register_user_codec(pybind11::module_& m);
void register_ops(pybind11::module_& m);
void register_schedule(pybind11::module_& m);
void register_transport(pybind11::module_& m);
void register_arena(pybind11::module_& m);
void register_comm(pybind11::module_& m);
void register_pack(pybind11::module_& m);
void register_device(pybind11::module_& m);
}  // namespace gw

PYBIND11_MODULE(_native, m) {
  m.doc() = "gradwire's native half; use the gradwire package instead";
  gw::register_base(m);
  gw::register_codec(m);
  gw::register_changes(m);
  gw::register_low_rank(m);
  gw::register_sparse(m);
  gw::register_user_codec(m);
  gw::register_ops(m);
  gw::register_schedule(m);
  gw::register_transport(m);
  gw::register_arena(m);
  gw::register_comm(m);
  gw::register_pack(m);
  gw::register_device(m);
}
