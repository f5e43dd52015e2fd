#include "cpu/suffix_gather.h"

#include "torch/checks.h"
#include "torch/ops.h"

namespace dpad {

Tensor suffix_gather_op(const Tensor& canvas, const Tensor& canvas_row, const Tensor& q_offsets,
                        const Tensor& position, const OptionalTensor& hidden_until,
                        int64_t mask_id) {
  const Checks check("suffix_gather");
  check.tensor("canvas", canvas, ScalarType::Long, {-1, -1});
  const Tensor tokens = rows_contiguous(canvas);
  const Tensor rows = check.indices("canvas_row", canvas_row, -1);
  const int64_t batch = rows.numel();
  const Tensor offsets = check.indices("q_offsets", q_offsets, batch + 1);
  const Tensor positions = check.indices("position", position, -1);
  check.range("canvas_row", rows, 0, tokens.size(0));
  check.range("position", positions, 0, tokens.size(1));
  check.offsets("q_offsets", offsets, positions.numel());
  OptionalTensor hidden;
  if (hidden_until) hidden = check.indices("hidden_until", *hidden_until, batch);

  Tensor out = empty_like_dtype(canvas, {positions.numel()}, ScalarType::Long);
  const SuffixGatherParams params{int64_data(tokens),
                                  tokens.stride(0),
                                  int64_data(rows),
                                  int64_data(offsets),
                                  int64_data(positions),
                                  hidden ? int64_data(*hidden) : nullptr,
                                  out.mutable_data_ptr<int64_t>(),
                                  batch,
                                  mask_id};
  cpu::suffix_gather(params);
  return out;
}

}  // namespace dpad
