// Pieces of rows through `gated`.
#pragma once

#include "cpu/gated.h"
#include "cpu/swiglu_piece.h"

namespace dpad::cpu {
namespace {

template <typename T>
void swiglu_columns(const T* gate, const T* up, T* out, int64_t count) {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    store(out + i, gated<T>(load(gate + i), load(up + i)));
  }
  if (i < count) {
    const int64_t rest = count - i;
    store_part(out + i, gated<T>(load_part(gate + i, rest), load_part(up + i, rest)), rest);
  }
}

}  // namespace

void DPAD_ISA(swiglu_piece)(const SwigluParams& p, int64_t row, int64_t begin, int64_t end) {
  with_type(p.dtype, [&]<typename T>() {
    swiglu_columns(static_cast<const T*>(p.gate) + row * p.gate_stride + begin,
                   static_cast<const T*>(p.up) + row * p.up_stride + begin,
                   static_cast<T*>(p.out) + row * p.width + begin, end - begin);
  });
}

}  // namespace dpad::cpu
