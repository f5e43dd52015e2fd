#include "cpu/scratch.h"

#include <cstdlib>
#include <memory>

namespace dpad::cpu {
namespace {

struct Free {
  void operator()(float* p) const { std::free(p); }
};

}  // namespace

float* thread_scratch(int64_t count) {
  static thread_local std::unique_ptr<float, Free> buffer;
  static thread_local int64_t capacity = 0;
  if (count > capacity) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(float) + 63) / 64 * 64;
    buffer.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
    capacity = count;
  }
  return buffer.get();
}

}  // namespace dpad::cpu
