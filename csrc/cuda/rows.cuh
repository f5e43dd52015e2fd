// Index maths that the kernels share.
#pragma once

#include <cstdint>

#include "core/rows.h"

namespace dpad::cuda {

// True when `pointer` and all `strides` (in elements of `size` bytes) allow 16-byte accesses.
template <class... Strides>
bool aligned([[maybe_unused]] int64_t size, const void* pointer, Strides... strides) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && ((strides * size % 16 == 0) && ...);
}

}  // namespace dpad::cuda
