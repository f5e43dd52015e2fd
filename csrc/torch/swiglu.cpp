#include "torch/kernels.h"
#include "torch/ops.h"

namespace dpad {

Tensor swiglu_op(const Tensor& gate, const Tensor& up) {
  const Checks check("swiglu", gate);
  const DType dtype = check.dtype("gate", gate);
  check.shape("gate", gate, {-1, -1});
  check.shape("up", up, {gate.size(0), gate.size(1)});
  check.same_dtype("up", up, gate);
  const Tensor gc = check.rows_contiguous("gate", gate), uc = check.rows_contiguous("up", up);
  Tensor out = check.empty({gate.size(0), gate.size(1)}, gate.scalar_type());
  SwigluParams p{};
  p.gate = gc.const_data_ptr();
  p.up = uc.const_data_ptr();
  p.out = out.mutable_data_ptr();
  p.gate_stride = gc.stride(0), p.up_stride = uc.stride(0);
  p.rows = gate.size(0), p.width = gate.size(1);
  p.dtype = dtype;
  run({check, gate}, p);
  return out;
}

}  // namespace dpad
