#include "torch/kernels.h"
#include "torch/ops.h"

namespace dpad {
namespace {

// Ends of each expert's rows, checked: they ascend to `rows`, the size of `of`.
Tensor ends_of_groups(const Checks& check, const Tensor& offsets, int64_t experts, int64_t rows,
                      const char* of) {
  check.tensor("offsets", offsets, ScalarType::Int, {experts});
  const Tensor ends = check.contiguous("offsets", offsets);
  const auto* end = ends.const_data_ptr<int32_t>();
  int64_t last = 0;
  for (int64_t e = 0; e < experts; ++e) {
    const bool good = end[e] >= last && end[e] <= rows;
    if (!good) check.raise({"offsets", "ascending ends within the rows", e, double(end[e])});
    last = end[e];
  }
  if (last != rows) check.raise({"offsets", of, experts - 1, double(last)});
  return ends;
}

}  // namespace

Tensor grouped_linear_op(const Tensor& x, const Tensor& weight, const Tensor& offsets) {
  const Checks check("grouped_linear", x);
  GroupedLinearParams p{};
  p.dtype = check.dtype("x", x);
  check.shape("x", x, {-1, -1});
  p.rows = x.size(0), p.in_features = x.size(1);
  check.shape("weight", weight, {-1, -1, p.in_features});
  check.same_dtype("weight", weight, x);
  p.experts = weight.size(0), p.out_features = weight.size(1);
  const Tensor ends =
      ends_of_groups(check, offsets, p.experts, p.rows, "the number of rows of x at the end");
  p.offsets = ends.const_data_ptr<int32_t>();
  const Tensor xc = check.rows_contiguous("x", x), wc = check.rows_contiguous("weight", weight);
  Tensor out = check.empty({p.rows, p.out_features}, x.scalar_type());
  p.x = xc.const_data_ptr();
  p.weight = wc.const_data_ptr();
  p.out = out.mutable_data_ptr();
  p.x_stride = xc.stride(0), p.expert_stride = wc.stride(0), p.weight_stride = wc.stride(1);
  run({check, x}, p);
  return out;
}

Tensor grouped_swiglu_op(const Tensor& x, const Tensor& row, const Tensor& gate, const Tensor& up,
                         const Tensor& offsets) {
  const Checks check("grouped_swiglu", x);
  GroupedLinearParams p{};
  p.dtype = check.dtype("x", x);
  check.shape("x", x, {-1, -1});
  p.in_features = x.size(1);
  const Tensor rows = check.indices("row", row, -1);
  check.range("row", rows, 0, x.size(0));
  p.rows = rows.size(0);
  check.shape("gate", gate, {-1, -1, p.in_features});
  check.same_dtype("gate", gate, x);
  p.experts = gate.size(0), p.out_features = gate.size(1);
  check.shape("up", up, {p.experts, p.out_features, p.in_features});
  check.same_dtype("up", up, x);
  const Tensor ends =
      ends_of_groups(check, offsets, p.experts, p.rows, "the number of entries of row at the end");
  p.offsets = ends.const_data_ptr<int32_t>();
  const Tensor xc = check.rows_contiguous("x", x), gc = check.rows_contiguous("gate", gate);
  const Tensor uc = check.rows_contiguous("up", up);
  Tensor out = check.empty({p.rows, p.out_features}, x.scalar_type());
  p.x = xc.const_data_ptr();
  p.row = int64_data(rows);
  p.gate = gc.const_data_ptr(), p.weight = uc.const_data_ptr();
  p.out = out.mutable_data_ptr();
  p.x_stride = xc.stride(0);
  p.gate_expert_stride = gc.stride(0), p.gate_stride = gc.stride(1);
  p.expert_stride = uc.stride(0), p.weight_stride = uc.stride(1);
  run({check, x}, p);
  return out;
}

}  // namespace dpad
