// The one file that spells torch's stable-ABI names. Everything in csrc/torch includes it; nothing
// below csrc/torch may.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "params.h"

namespace dpad {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// A new tensor; `device` is the index of a CUDA device, or -1 for the CPU. `torch::stable::empty`
// finds its operator by name and boxes every argument, which takes as long as a small kernel.
inline Tensor empty_strided(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
                            ScalarType dtype, int32_t device) {
  const int32_t type = device < 0 ? aoti_torch_device_type_cpu() : aoti_torch_device_type_cuda();
  AtenTensorHandle made = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
                               static_cast<int32_t>(dtype), type, std::max(device, 0), &made));
  return Tensor(made);
}

// The text of an argument. Of type std::string it would not be freed: torch's conversion (2.10 to
// 2.13) copies it with `new` and returns a copy of that.
struct Text {
  std::string value;
};

}  // namespace dpad

HIDDEN_NAMESPACE_BEGIN(torch, stable, detail)

template <>
struct ToImpl<dpad::Text> {
  static dpad::Text call(StableIValue val, uint64_t, bool) {
    const auto handle = torch::stable::detail::to<StringHandle>(val);
    size_t length = 0;
    const char* data = nullptr;
    TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
    TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &data));
    dpad::Text text{std::string(data, length)};
    TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
    return text;
  }
};

HIDDEN_NAMESPACE_END(torch, stable, detail)
