// Arrays of one of the kernels' element types, seen as numbers; every compiled instruction set.
#pragma once

#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "catch.h"
#include "core/half.h"
#include "cpu/isa.h"
#include "cpu/scratch.h"
#include "cpu/unmask.h"
#include "params.h"

namespace dpad::test {

inline constexpr DType kTypes[] = {DType::kFloat32, DType::kBFloat16, DType::kFloat16};

// x rounded to `dtype`.
inline float rounded(DType dtype, float x) {
  half::BFloat16 brain;
  half::Float16 half;
  switch (dtype) {
    case DType::kBFloat16:
      half::from_float(x, brain);
      return half::to_float(brain);
    case DType::kFloat16:
      half::from_float(x, half);
      return half::to_float(half);
    default:
      return x;
  }
}

// Half a unit in the last place, relative.
inline double unit(DType dtype) {
  return dtype == DType::kFloat32 ? 0x1p-24 : dtype == DType::kBFloat16 ? 0x1p-8 : 0x1p-11;
}

class Values {
 public:
  Values(DType dtype, int64_t size)
      : dtype_(dtype), width_(dtype == DType::kFloat32 ? 4 : 2), bytes_(size * width_) {}

  static Values normal(DType dtype, int64_t size, uint32_t seed, float scale = 1) {
    Values out(dtype, size);
    std::mt19937 bits(seed);
    std::normal_distribution<float> draw(0, scale);
    for (int64_t i = 0; i < size; ++i) out.set(i, draw(bits));
    return out;
  }

  int64_t size() const { return static_cast<int64_t>(bytes_.size()) / width_; }
  DType dtype() const { return dtype_; }
  void* data() { return bytes_.data(); }
  bool operator==(const Values& other) const { return bytes_ == other.bytes_; }

  float operator[](int64_t i) const {
    float x;
    half::BFloat16 brain;
    half::Float16 half;
    const char* from = bytes_.data() + i * width_;
    if (dtype_ == DType::kFloat32) return std::memcpy(&x, from, 4), x;
    if (dtype_ == DType::kBFloat16) return std::memcpy(&brain, from, 2), half::to_float(brain);
    return std::memcpy(&half, from, 2), half::to_float(half);
  }

  void set(int64_t i, float x) {
    half::BFloat16 brain;
    half::Float16 half;
    char* to = bytes_.data() + i * width_;
    if (dtype_ == DType::kFloat32) {
      std::memcpy(to, &x, 4);
    } else if (dtype_ == DType::kBFloat16) {
      half::from_float(x, brain);
      std::memcpy(to, &brain, 2);
    } else {
      half::from_float(x, half);
      std::memcpy(to, &half, 2);
    }
  }

 private:
  DType dtype_;
  int64_t width_;
  std::vector<char> bytes_;
};

// Runs the work items [begin, end) of a CPU kernel on scratch memory of the bytes it asks for.
template <class Params>
void run_items(const Params& p, int64_t begin, int64_t end, int64_t (*bytes)(const Params&),
               void (*kernel)(const Params&, int64_t, int64_t, void*)) {
  const cpu::Scratch scratch(1, bytes(p));
  REQUIRE(scratch);
  kernel(p, begin, end, scratch.part(0));
}

inline void run_unmask(const UnmaskParams& p) {
  const cpu::Scratch scratch(1, cpu::unmask_scratch(p));
  REQUIRE(scratch);
  cpu::unmask(p, scratch.part(0));
}

// Runs `body` on every instruction set of this processor, then restores the choice. One that the
// processor lacks is reported as not run.
inline void on_every_isa(const std::function<void()>& body) {
  const cpu::Isa before = cpu::selected_isa();
  for (const auto isa : {cpu::Isa::kPortable, cpu::Isa::kAvx2, cpu::Isa::kAvx512}) {
    if (!cpu::isa_supported(isa)) {
      WARN(std::string(cpu::isa_name(isa)) + ": not run, this processor does not support it");
      continue;
    }
    cpu::set_isa(isa);
    INFO(cpu::isa_name(isa));
    body();
  }
  cpu::set_isa(before);
}

}  // namespace dpad::test
