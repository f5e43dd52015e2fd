#include "torch/kernels.h"
#include "torch/ops.h"

namespace dpad {

Tensor add_rms_norm_op(const Tensor& residual, const OptionalTensor& delta, const Tensor& weight,
                       double eps) {
  const Checks check("add_rms_norm_", residual);
  const DType dtype = check.dtype("residual", residual);
  check.shape("residual", residual, {-1, -1});
  const int64_t rows = residual.size(0), width = residual.size(1);
  check.shape("weight", weight, {width});
  check.same_dtype("weight", weight, residual);
  check.last_dim_contiguous("residual", residual);
  check.distinct_elements("residual", residual);
  check.disjoint({{"residual", residual}}, {{"weight", weight}});
  OptionalTensor added;
  if (delta) {
    check.shape("delta", *delta, {rows, width});
    check.same_dtype("delta", *delta, residual);
    check.disjoint({{"residual", residual}}, {{"delta", *delta}});
    added = check.rows_contiguous("delta", *delta);
  }
  const Tensor weights = check.rows_contiguous("weight", weight);
  Tensor out = check.empty({rows, width}, residual.scalar_type());
  AddRmsNormParams p{};
  p.residual = residual.mutable_data_ptr();
  p.delta = added ? added->const_data_ptr() : nullptr;
  p.weight = weights.const_data_ptr();
  p.out = out.mutable_data_ptr();
  p.residual_stride = residual.stride(0);
  p.delta_stride = added ? added->stride(0) : 0;
  p.rows = rows, p.width = width;
  p.eps = static_cast<float>(eps);
  p.dtype = dtype;
  run({check, residual}, p);
  return out;
}

}  // namespace dpad
