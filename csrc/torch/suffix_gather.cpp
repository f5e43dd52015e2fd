#include "torch/kernels.h"
#include "torch/ops.h"

namespace dpad {

Tensor suffix_gather_op(const Tensor& canvas, const Tensor& canvas_row, const Tensor& q_offsets,
                        const Tensor& position, const OptionalTensor& hidden_until,
                        int64_t mask_id) {
  const Checks check("suffix_gather", canvas);
  check.tensor("canvas", canvas, ScalarType::Long, {-1, -1});
  const Tensor tokens = check.rows_contiguous("canvas", canvas);
  const Tensor rows = check.indices("canvas_row", canvas_row, -1);
  const int64_t batch = rows.numel();
  const Tensor offsets = check.indices("q_offsets", q_offsets, batch + 1);
  const Tensor positions = check.indices("position", position, -1);
  check.range("canvas_row", rows, 0, tokens.size(0));
  check.range("position", positions, 0, tokens.size(1));
  check.offsets("q_offsets", offsets, positions.numel());
  OptionalTensor hidden;
  if (hidden_until) hidden = check.indices("hidden_until", *hidden_until, batch);

  Tensor out = check.empty({positions.numel()}, ScalarType::Long);
  SuffixGatherParams p{};
  p.canvas = int64_data(tokens);
  p.canvas_stride = tokens.stride(0);
  p.canvas_row = int64_data(rows);
  p.q_offsets = int64_data(offsets);
  p.position = int64_data(positions);
  p.hidden_until = hidden ? int64_data(*hidden) : nullptr;
  p.out = out.mutable_data_ptr<int64_t>();
  p.batch = batch;
  p.mask_id = mask_id;
  p.rows = positions.numel(), p.canvas_rows = tokens.size(0), p.length = tokens.size(1);
  run({check, canvas}, p);
  return out;
}

}  // namespace dpad
