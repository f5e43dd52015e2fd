// CUDA registrations and the Python module `_C_cuda`.
#include <Python.h>

#include "torch/named.h"
#include "torch/ops.h"

STABLE_TORCH_LIBRARY_IMPL(dpad, CUDA, m) {
  DPAD_IMPL(suffix_gather, suffix_gather_op);
  DPAD_IMPL(rope_kv_write_, rope_kv_write_op);
  DPAD_IMPL(block_attention, block_attention_op);
  DPAD_IMPL(add_rms_norm_, add_rms_norm_op);
  DPAD_IMPL(swiglu, swiglu_op);
  DPAD_IMPL(route, route_op);
  DPAD_IMPL(combine, combine_op);
  DPAD_IMPL(confidence, confidence_op);
  DPAD_IMPL(uniform, uniform_op);
  DPAD_IMPL(unmask_, unmask_op);
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
