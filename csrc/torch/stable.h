// The one file that spells torch's stable-ABI names. Everything in csrc/torch includes it; nothing
// below csrc/torch may.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

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

}  // namespace dpad
