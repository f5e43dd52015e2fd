#include "cpu/add_rms_norm.h"

#include <algorithm>

#include "cpu/add_rms_norm_row.h"

namespace dpad::cpu {

int64_t add_rms_norm_tasks(const AddRmsNormParams& p) { return p.width > 0 ? p.rows : 0; }

int64_t add_rms_norm_grain(const AddRmsNormParams& p) {
  return 1 + (int64_t{1} << 15) / std::max<int64_t>(p.width, 1);
}

void add_rms_norm(const AddRmsNormParams& p, int64_t begin, int64_t end) {
  const auto row_kernel = DPAD_PICK(add_rms_norm_row);
  for (int64_t row = begin; row < end; ++row) row_kernel(p, row);
}

}  // namespace dpad::cpu
