#include "cuda/suffix_gather.h"

#include "torch/cuda/checks.h"
#include "torch/cuda/ops.h"

namespace dpad::cuda {

Tensor suffix_gather_op(const Tensor& canvas, const Tensor& canvas_row, const Tensor& q_offsets,
                        const Tensor& position, const OptionalTensor& hidden_until,
                        int64_t mask_id) {
  const DeviceChecks check("suffix_gather", "canvas", canvas);
  check.tensor("canvas", canvas, ScalarType::Long, {-1, -1});
  const Tensor tokens = rows_contiguous(canvas);
  const Tensor canvas_rows = check.indices("canvas_row", canvas_row, -1);
  const Tensor offsets = check.indices("q_offsets", q_offsets, canvas_rows.numel() + 1);
  const Tensor positions = check.indices("position", position, -1);
  OptionalTensor hidden;
  if (hidden_until) hidden = check.indices("hidden_until", *hidden_until, canvas_rows.numel());

  Tensor out = empty_like_dtype(canvas, {positions.numel()}, ScalarType::Long);
  SuffixGatherParams p{};
  p.canvas = int64_data(tokens);
  p.canvas_stride = tokens.stride(0);
  p.canvas_row = int64_data(canvas_rows);
  p.q_offsets = int64_data(offsets);
  p.position = int64_data(positions);
  p.hidden_until = hidden ? int64_data(*hidden) : nullptr;
  p.out = out.mutable_data_ptr<int64_t>();
  p.batch = canvas_rows.numel();
  p.mask_id = mask_id;
  p.rows = positions.numel(), p.canvas_rows = tokens.size(0), p.length = tokens.size(1);
  check.run(p, launch_suffix_gather);
  return out;
}

}  // namespace dpad::cuda
