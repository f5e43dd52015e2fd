// Calls of the launchers as csrc/torch/cuda/kernels.cpp makes them, on memory with guards.
#pragma once

#include <algorithm>
#include <cmath>

#include "fake_cuda_runtime.h"
#include "values.h"

namespace dpad::test {

using Ints = std::vector<int64_t>;
using Doubles = std::vector<double>;
using Names = std::vector<std::string>;

inline const auto kStream = reinterpret_cast<cudaStream_t>(uintptr_t{0x5EED});

// Scratch memory as torch hands it out: of any content, null where there is none.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) : bytes_(bytes), words_((bytes + 15) / 16 + 2 * kGuard) {
    std::memset(words_.data(), kPoison, words_.size() * sizeof(Word));
  }

  void* data() { return bytes_ == 0 ? nullptr : begin() + kGuard * 16; }
  // True while nothing outside has been written.
  bool intact() {
    const unsigned char* first = begin();
    const auto whole = [](unsigned char byte) { return byte == kPoison; };
    return std::all_of(first, first + kGuard * 16, whole) &&
           std::all_of(first + kGuard * 16 + bytes_, first + words_.size() * 16, whole);
  }

 private:
  static constexpr int64_t kGuard = 64;           // words
  static constexpr unsigned char kPoison = 0xFF;  // NaN as a float, -1 as an integer
  struct alignas(16) Word {
    unsigned char bytes[16];
  };
  unsigned char* begin() { return words_.data()->bytes; }
  int64_t bytes_;
  std::vector<Word> words_;
};

// An array that a kernel writes: between guards, and aligned to 16 bytes.
class Output {
 public:
  Output(DType dtype, int64_t size) : all_(dtype, size + 2 * kGuard) {
    for (int64_t i = 0; i < all_.size(); ++i) all_.set(i, kFill);
  }

  int64_t size() const { return all_.size() - 2 * kGuard; }
  void* data() { return static_cast<char*>(all_.data()) + kGuard * bytes_of(all_.dtype()); }
  float operator[](int64_t i) const { return all_[i + kGuard]; }
  bool operator==(const Output& other) const { return all_ == other.all_; }
  bool intact() const {
    for (int64_t i = 0; i < kGuard; ++i) {
      if (all_[i] != kFill || all_[all_.size() - 1 - i] != kFill) return false;
    }
    return true;
  }
  bool untouched() const {
    for (int64_t i = 0; i < all_.size(); ++i) {
      if (all_[i] != kFill) return false;
    }
    return true;
  }
  static int64_t bytes_of(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

 private:
  static constexpr int64_t kGuard = 64;
  static constexpr float kFill = 77;
  Values all_;
};

// Element `i` of an array of `dtype`.
inline void* element(Values& values, int64_t i) {
  return static_cast<char*>(values.data()) + i * Output::bytes_of(values.dtype());
}

// Runs what is queued, all of it on the stream that was given; the names of the work.
inline Names finished() {
  Names names;
  for (const QueuedWork& work : fake_cuda().queue) {
    CAPTURE(work.name);
    REQUIRE(work.stream == kStream);
    names.push_back(work.name);
  }
  fake_cuda().synchronize();
  return names;
}

template <class Params>
Names launched(const Params& p, cudaError_t (*launch)(const Params&, cudaStream_t)) {
  REQUIRE(launch(p, kStream) == cudaSuccess);
  return finished();
}

template <class Params>
Names launched(const Params& p, int64_t (*bytes)(const Params&),
               cudaError_t (*launch)(const Params&, void*, cudaStream_t)) {
  Scratch scratch(bytes(p));
  REQUIRE(launch(p, scratch.data(), kStream) == cudaSuccess);
  const Names names = finished();
  REQUIRE(scratch.intact());
  return names;
}

inline bool has(const Names& names, const std::string& part) {
  return std::any_of(names.begin(), names.end(),
                     [&](const std::string& name) { return name.find(part) != std::string::npos; });
}

// "<T, N>" as the names of kernels have it; N is as many elements as fit into 16 bytes, or 1.
inline std::string packs(DType dtype, bool wide) {
  const char* type = dtype == DType::kFloat32    ? "float"
                     : dtype == DType::kBFloat16 ? "BFloat16"
                                                 : "Float16";
  const int64_t count = wide ? 16 / Output::bytes_of(dtype) : 1;
  return std::string("<").append(type).append(", ").append(std::to_string(count)).append(">");
}

// Offsets of sequences with these numbers of rows.
inline Ints offsets_of(const Ints& counts) {
  Ints offsets{0};
  for (const int64_t count : counts) offsets.push_back(offsets.back() + count);
  return offsets;
}

// Every order of threads and blocks in turns.
inline void next_order() {
  using cuda::emulator::Order;
  Order& order = fake_cuda().order;
  order = order == Order::kForward    ? Order::kBackward
          : order == Order::kBackward ? Order::kShuffled
                                      : Order::kForward;
}

}  // namespace dpad::test
