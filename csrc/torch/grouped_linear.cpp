#include "torch/kernels.h"
#include "torch/ops.h"

namespace dpad {

Tensor grouped_linear_op(const Tensor& x, const Tensor& weight, const Tensor& offsets) {
  const Checks check("grouped_linear", x);
  GroupedLinearParams p{};
  p.dtype = check.dtype("x", x);
  check.shape("x", x, {-1, -1});
  p.rows = x.size(0), p.in_features = x.size(1);
  check.shape("weight", weight, {-1, -1, p.in_features});
  check.same_dtype("weight", weight, x);
  p.experts = weight.size(0), p.out_features = weight.size(1);
  check.tensor("offsets", offsets, ScalarType::Int, {p.experts});
  const Tensor ends = check.contiguous("offsets", offsets);
  p.offsets = ends.const_data_ptr<int32_t>();
  int64_t last = 0;
  for (int64_t e = 0; e < p.experts; ++e) {
    const bool good = p.offsets[e] >= last && p.offsets[e] <= p.rows;
    if (!good) {
      check.raise({"offsets", "ascending ends within the rows of x", e, double(p.offsets[e])});
    }
    last = p.offsets[e];
  }
  if (last != p.rows) {
    check.raise({"offsets", "the number of rows of x at the end", p.experts - 1, double(last)});
  }
  const Tensor xc = check.rows_contiguous("x", x), wc = check.rows_contiguous("weight", weight);
  Tensor out = check.empty({p.rows, p.out_features}, x.scalar_type());
  p.x = xc.const_data_ptr();
  p.weight = wc.const_data_ptr();
  p.out = out.mutable_data_ptr();
  p.x_stride = xc.stride(0), p.expert_stride = wc.stride(0), p.weight_stride = wc.stride(1);
  run({check, x}, p);
  return out;
}

}  // namespace dpad
