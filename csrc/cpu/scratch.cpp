#include "cpu/scratch.h"

#include <cstdlib>
#include <limits>
#include <utility>

namespace dpad::cpu {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kKept = int64_t{16} << 20;  // a larger buffer is given back after its call

// The buffer that a thread has kept from its last call.
struct Kept {
  char* data = nullptr;
  int64_t capacity = 0;
  ~Kept() { std::free(data); }
};

thread_local Kept kept;

}  // namespace

Scratch::Scratch(int64_t parts, int64_t bytes) {
  if (__builtin_add_overflow(bytes, kAlignment - 1, &stride_) ||
      __builtin_mul_overflow(stride_ &= -kAlignment, parts, &size_)) {
    size_ = std::numeric_limits<int64_t>::max();
    return;
  }
  if (size_ == 0) return;
  data_ = std::exchange(kept.data, nullptr);
  capacity_ = std::exchange(kept.capacity, 0);
  if (capacity_ >= size_) return;
  std::free(data_);
  data_ = static_cast<char*>(std::aligned_alloc(kAlignment, static_cast<size_t>(size_)));
  capacity_ = data_ == nullptr ? 0 : size_;
}

Scratch::~Scratch() {
  if (data_ != nullptr && capacity_ <= kKept && kept.data == nullptr) {
    kept.data = data_;
    kept.capacity = capacity_;
  } else {
    std::free(data_);
  }
}

}  // namespace dpad::cpu
