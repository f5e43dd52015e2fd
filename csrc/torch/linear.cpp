#include "torch/kernels.h"
#include "torch/ops.h"

namespace dpad {

Tensor linear_op(const Tensor& x, const Tensor& weight, const OptionalTensor& bias) {
  const Checks check("linear", x);
  const DType dtype = check.dtype("x", x);
  check.shape("x", x, {-1, -1});
  const int64_t rows = x.size(0), in_features = x.size(1);
  check.shape("weight", weight, {-1, in_features});
  check.same_dtype("weight", weight, x);
  const int64_t out_features = weight.size(0);
  OptionalTensor added;
  if (bias) {
    check.shape("bias", *bias, {out_features});
    check.same_dtype("bias", *bias, x);
    added = check.rows_contiguous("bias", *bias);
  }
  const Tensor xc = check.rows_contiguous("x", x), wc = check.rows_contiguous("weight", weight);
  Tensor out = check.empty({rows, out_features}, x.scalar_type());
  LinearParams p{};
  p.x = xc.const_data_ptr();
  p.weight = wc.const_data_ptr();
  p.bias = added ? added->const_data_ptr() : nullptr;
  p.out = out.mutable_data_ptr();
  p.x_stride = xc.stride(0), p.weight_stride = wc.stride(0);
  p.rows = rows, p.in_features = in_features, p.out_features = out_features;
  p.dtype = dtype;
  run({check, x}, p);
  return out;
}

}  // namespace dpad
