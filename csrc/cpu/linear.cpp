#include "cpu/linear.h"

#include <algorithm>

#include "cpu/linear_panel.h"

namespace dpad::cpu {
namespace {

auto panel_for(const LinearParams& p) {
#if defined(__x86_64__)
  const bool even = ((p.in_features | p.x_stride | p.weight_stride | p.gate_stride) & 1) == 0;
  if (p.dtype == DType::kBFloat16 && even && has_extension(Extension::kBf16)) {
    return &linear_panel_avx512bf16;
  }
#endif
  return DPAD_PICK(linear_panel);
}

}  // namespace

int64_t linear_tasks(const LinearParams& p) {
  return p.rows > 0 ? (p.out_features + kLinearUnit - 1) / kLinearUnit : 0;
}

int64_t linear_grain(const LinearParams& p) {
  return 1 + (int64_t{1} << 19) / (kLinearUnit * std::max<int64_t>(p.rows * p.in_features, 1));
}

int64_t linear_scratch(const LinearParams& p) {
  const int64_t elements = kLinearScratch + (p.gate == nullptr ? 0 : kLinearSums);
  return elements * static_cast<int64_t>(sizeof(float));
}

void linear(const LinearParams& p, int64_t begin, int64_t end, void* scratch) {
  const auto panel = panel_for(p);
  const int64_t last = std::min(end * kLinearUnit, p.out_features);
  for (int64_t first = 0; first < p.rows; first += kLinearRows) {
    const int64_t rows = std::min(p.rows - first, kLinearRows);
    for (int64_t n = begin * kLinearUnit; n < last; n += kLinearPanel) {
      panel(p, first, rows, n, std::min(last, n + kLinearPanel), static_cast<float*>(scratch));
    }
  }
}

}  // namespace dpad::cpu
