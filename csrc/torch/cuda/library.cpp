// CUDA registrations and the Python module `_C_cuda`.
#include <Python.h>

#include "torch/ops.h"

STABLE_TORCH_LIBRARY_IMPL(dpad, CUDA, m) {
  m.impl("suffix_gather", TORCH_BOX(&dpad::suffix_gather_op));
  m.impl("rope_kv_write_", TORCH_BOX(&dpad::rope_kv_write_op));
  m.impl("block_attention", TORCH_BOX(&dpad::block_attention_op));
  m.impl("add_rms_norm_", TORCH_BOX(&dpad::add_rms_norm_op));
  m.impl("swiglu", TORCH_BOX(&dpad::swiglu_op));
  m.impl("route", TORCH_BOX(&dpad::route_op));
  m.impl("combine", TORCH_BOX(&dpad::combine_op));
  m.impl("confidence", TORCH_BOX(&dpad::confidence_op));
  m.impl("uniform", TORCH_BOX(&dpad::uniform_op));
  m.impl("unmask_", TORCH_BOX(&dpad::unmask_op));
}

namespace {
PyModuleDef module_definition = {PyModuleDef_HEAD_INIT,
                                 "_C_cuda",
                                 "Registers the CUDA kernels of torch.ops.dpad.",
                                 -1,
                                 nullptr,
                                 nullptr,
                                 nullptr,
                                 nullptr,
                                 nullptr};
}  // namespace

PyMODINIT_FUNC PyInit__C_cuda() { return PyModule_Create(&module_definition); }
