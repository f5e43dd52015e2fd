#include "torch/kernels.h"
#include "torch/ops.h"

namespace dpad {

Tensor combine_op(const Tensor& y, const Tensor& order, const Tensor& weight, bool full_precision,
                  bool round_weights) {
  const Checks check("combine", y);
  CombineParams p{};
  p.dtype = check.dtype("y", y);
  check.shape("y", y, {-1, -1});
  check.tensor("weight", weight, ScalarType::Float, {-1, -1});
  p.rows = weight.size(0), p.top_k = weight.size(1), p.width = y.size(1);
  const Tensor orders = check.indices("order", order, p.rows * p.top_k);
  check.shape("y", y, {p.rows * p.top_k, p.width});
  const Tensor yc = check.rows_contiguous("y", y), wc = check.contiguous("weight", weight);
  Tensor out = check.empty({p.rows, p.width}, y.scalar_type());
  p.y = yc.const_data_ptr();
  p.y_stride = yc.stride(0);
  p.order = int64_data(orders);
  p.weight = wc.const_data_ptr<float>();
  p.out = out.mutable_data_ptr();
  p.full_precision = full_precision, p.round_weights = round_weights;
  run({check, y}, p);
  return out;
}

}  // namespace dpad
