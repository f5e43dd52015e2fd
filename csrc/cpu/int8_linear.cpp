#include "cpu/int8_linear.h"

#include <algorithm>

#include "cpu/int8_linear_panel.h"

namespace dpad::cpu {
namespace {

#if defined(__x86_64__)
#define DPAD_PICK_INT8(name) (has_extension(Extension::kVnni) ? name##_avx512vnni : DPAD_PICK(name))
#else
#define DPAD_PICK_INT8(name) DPAD_PICK(name)
#endif

int64_t tiles(const Int8LinearParams& p, const Int8Layout& layout) {
  return (p.rows + layout.lanes - 1) / layout.lanes;
}

}  // namespace

int64_t int8_linear_words(const Int8LinearParams& p) {
  const Int8Layout layout = DPAD_PICK_INT8(int8_layout)();
  const int64_t words = (p.in_features + layout.group - 1) / layout.group;
  return tiles(p, layout) * layout.lanes * words;
}

int64_t int8_rows_tasks(const Int8LinearParams& p) {
  return tiles(p, DPAD_PICK_INT8(int8_layout)());
}

int64_t int8_rows_grain(const Int8LinearParams& p) {
  return 1 + (int64_t{1} << 14) / std::max<int64_t>(p.in_features * 16, 1);
}

int64_t int8_rows_scratch(const Int8LinearParams& p) {
  return (p.in_features + 64) * 16 * static_cast<int64_t>(sizeof(float));
}

void int8_rows(const Int8LinearParams& p, int64_t begin, int64_t end, void* scratch) {
  const auto tile = DPAD_PICK_INT8(int8_tile);
  for (int64_t i = begin; i < end; ++i) tile(p, i, static_cast<float*>(scratch));
}

int64_t int8_linear_tasks(const Int8LinearParams& p) {
  return p.rows > 0 ? (p.out_features + kInt8LinearUnit - 1) / kInt8LinearUnit : 0;
}

int64_t int8_linear_grain(const Int8LinearParams& p) {
  return 1 + (int64_t{1} << 21) / (kInt8LinearUnit * std::max<int64_t>(p.rows * p.in_features, 1));
}

int64_t int8_linear_scratch(const Int8LinearParams&) {
  return kInt8Scratch * static_cast<int64_t>(sizeof(float));
}

void int8_linear(const Int8LinearParams& p, int64_t begin, int64_t end, void* scratch) {
  const auto panel = DPAD_PICK_INT8(int8_panel);
  const int64_t last = std::min(end * kInt8LinearUnit, p.out_features);
  for (int64_t first = 0; first < p.rows; first += kInt8Rows) {
    const int64_t rows = std::min(p.rows - first, kInt8Rows);
    for (int64_t n = begin * kInt8LinearUnit; n < last; n += kInt8Panel) {
      panel(p, first, rows, n, std::min(last, n + kInt8Panel), static_cast<float*>(scratch));
    }
  }
}

}  // namespace dpad::cpu
