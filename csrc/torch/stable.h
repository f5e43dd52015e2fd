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

inline Tensor empty_like_dtype(const Tensor& like, std::initializer_list<int64_t> sizes,
                               ScalarType dtype) {
  return torch::stable::new_empty(like, std::vector<int64_t>(sizes), dtype);
}

// Runs the work items [0, tasks) of a kernel on torch's own thread pool.
template <class Params>
void run_tasks(const Params& params, int64_t tasks, int64_t grain,
               void (*kernel)(const Params&, int64_t, int64_t)) {
  if (tasks <= 0) return;
  torch::stable::parallel_for(0, tasks, grain,
                              [&](int64_t begin, int64_t end) { kernel(params, begin, end); });
}

}  // namespace dpad
