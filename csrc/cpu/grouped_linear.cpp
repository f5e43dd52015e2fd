#include "cpu/grouped_linear.h"

#include <algorithm>

#include "cpu/linear.h"

namespace dpad::cpu {
namespace {

int64_t units(const GroupedLinearParams& p) {
  return (p.out_features + kLinearUnit - 1) / kLinearUnit;
}

// The product of one expert.
LinearParams of_expert(const GroupedLinearParams& p, int64_t expert) {
  const int64_t size = p.dtype == DType::kFloat32 ? 4 : 2;
  const int64_t first = expert == 0 ? 0 : p.offsets[expert - 1];
  LinearParams q{};
  q.x = p.x;
  if (p.row != nullptr) {
    q.row = p.row + first;
  } else {
    q.x = static_cast<const char*>(p.x) + first * p.x_stride * size;
  }
  q.weight = static_cast<const char*>(p.weight) + expert * p.expert_stride * size;
  if (p.gate != nullptr) {
    q.gate = static_cast<const char*>(p.gate) + expert * p.gate_expert_stride * size;
  }
  q.out = static_cast<char*>(p.out) + first * p.out_features * size;
  q.x_stride = p.x_stride, q.weight_stride = p.weight_stride, q.gate_stride = p.gate_stride;
  q.rows = p.offsets[expert] - first;
  q.in_features = p.in_features, q.out_features = p.out_features;
  q.dtype = p.dtype;
  return q;
}

}  // namespace

int64_t grouped_linear_tasks(const GroupedLinearParams& p) {
  return p.rows > 0 ? p.experts * units(p) : 0;
}

int64_t grouped_linear_grain(const GroupedLinearParams& p) {
  const int64_t rows = std::max<int64_t>(p.rows / std::max<int64_t>(p.experts, 1), 1);
  return 1 + (int64_t{1} << 19) / (kLinearUnit * std::max<int64_t>(rows * p.in_features, 1));
}

int64_t grouped_linear_scratch(const GroupedLinearParams& p) {
  LinearParams q{};
  q.gate = p.gate;
  return linear_scratch(q);
}

void grouped_linear(const GroupedLinearParams& p, int64_t begin, int64_t end, void* scratch) {
  const int64_t each = units(p);
  while (begin < end) {
    const int64_t expert = begin / each, first = expert * each;
    const int64_t stop = std::min(end, first + each);
    const LinearParams q = of_expert(p, expert);
    if (q.rows > 0) linear(q, begin - first, stop - first, scratch);
    begin = stop;
  }
}

}  // namespace dpad::cpu
