// Helpers of the tests that run the bodies of CUDA kernels on the host.
#pragma once

#include <cstring>
#include <random>
#include <vector>

#include "cuda/scalar.cuh"

namespace dpad::cuda {

// Storage whose first element is 16-byte aligned, filled with numbers of a wide range.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t size, unsigned seed) : words_(size * sizeof(T) / 16 + 2), size_(size) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < size; ++i) data()[i] = from_float<T>(2 * normal(random));
  }
  T* data() { return reinterpret_cast<T*>(words_.data()); }
  T& operator[](int64_t i) { return data()[i]; }
  bool same_bits(Buffer& other) {
    return std::memcmp(data(), other.data(), size_ * sizeof(T)) == 0;
  }

 private:
  struct alignas(16) Word {
    unsigned char bytes[16];
  };
  std::vector<Word> words_;
  int64_t size_;
};

template <class Check>
void for_each_dtype(Check&& check) {
  check(float{});
  check(BFloat16{});
  check(Float16{});
}

}  // namespace dpad::cuda
