#include "torch/kernels.h"
#include "torch/ops.h"

namespace dpad {

Tensor int8_linear_op(const Tensor& x, const Tensor& weight, const Tensor& scale,
                      const OptionalTensor& bias, const OptionalTensor& smoothing) {
  const Checks check("int8_linear", x);
  const DType dtype = check.dtype("x", x);
  check.shape("x", x, {-1, -1});
  const int64_t rows = x.size(0), in_features = x.size(1);
  if (in_features > kInt8Most) {
    check.fail("argument 'x' has " + std::to_string(in_features) + " features: at most " +
               std::to_string(kInt8Most) + " products of 8 bits fit into a sum of 32");
  }
  check.tensor("weight", weight, ScalarType::Char, {-1, in_features});
  const int64_t out_features = weight.size(0);
  check.tensor("scale", scale, ScalarType::Float, {out_features});
  OptionalTensor added, factors;
  if (bias) {
    check.shape("bias", *bias, {out_features});
    check.same_dtype("bias", *bias, x);
    added = check.rows_contiguous("bias", *bias);
  }
  if (smoothing) {
    check.tensor("smoothing", *smoothing, ScalarType::Float, {in_features});
    factors = check.rows_contiguous("smoothing", *smoothing);
  }
  const Tensor xc = check.rows_contiguous("x", x), wc = check.rows_contiguous("weight", weight);
  const Tensor sc = check.rows_contiguous("scale", scale);
  Tensor out = check.empty({rows, out_features}, x.scalar_type());
  Int8LinearParams p{};
  p.x = xc.const_data_ptr();
  p.weight = wc.const_data_ptr<int8_t>();
  p.scale = sc.const_data_ptr<float>();
  p.bias = added ? added->const_data_ptr() : nullptr;
  p.smoothing = factors ? factors->const_data_ptr<float>() : nullptr;
  p.out = out.mutable_data_ptr();
  p.x_stride = xc.stride(0), p.weight_stride = wc.stride(0);
  p.rows = rows, p.in_features = in_features, p.out_features = out_features;
  p.dtype = dtype;
  run({check, x}, p);
  return out;
}

}  // namespace dpad
