#include "torch/kernels.h"
#include "torch/ops.h"

namespace dpad {

Tensor uniform_op(const Tensor& rng, const Tensor& l_offsets, const Tensor& position) {
  const Checks check("uniform", rng);
  check.tensor("rng", rng, ScalarType::Long, {-1, 3});
  const int64_t batch = rng.size(0);
  const Tensor rngs = check.contiguous("rng", rng);
  const Tensor positions = check.indices("position", position, -1);
  const Tensor offsets = check.indices("l_offsets", l_offsets, batch + 1);
  check.offsets("l_offsets", offsets, positions.numel());
  Tensor out = check.empty({positions.numel()}, ScalarType::Double);
  UniformParams p{};
  p.position = int64_data(positions);
  p.l_offsets = int64_data(offsets);
  p.rng = int64_data(rngs);
  p.out = out.mutable_data_ptr<double>();
  p.batch = batch, p.rows = positions.numel();
  run({check, rng}, p);
  return out;
}

}  // namespace dpad
