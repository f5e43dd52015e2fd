// Checks and launches shared by the CUDA bindings. Shapes, dtypes and devices are checked as on the
// CPU; values are not, because that would read them back to the host: kernels skip bad rows.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>

#include "torch/checks.h"

namespace dpad::cuda {

class DeviceChecks : Checks {
 public:
  // Makes the device of `like`, the argument `name`, current. Every tensor has to be there.
  DeviceChecks(const char* op, const char* name, const Tensor& like);

  using Checks::disjoint;
  using Checks::distinct_elements;
  using Checks::dtype;
  using Checks::last_dim_contiguous;
  using Checks::raise;
  using Checks::same_dtype;

  // Sizes of -1 accept any size.
  void shape(const char* name, const Tensor& t, std::initializer_list<int64_t> sizes) const;
  void tensor(const char* name, const Tensor& t, ScalarType dtype,
              std::initializer_list<int64_t> sizes) const;
  // A contiguous int64 index tensor of one dimension; `size` -1 accepts any.
  Tensor indices(const char* name, const Tensor& t, int64_t size) const;

  // Queues a kernel on torch's current stream of the device.
  template <class Params>
  void run(const Params& params, cudaError_t (*launch)(const Params&, cudaStream_t)) const {
    expect_success(launch(params, stream()));
  }

 private:
  int32_t device_of(const char* name, const Tensor& t) const;
  cudaStream_t stream() const;
  void expect_success(cudaError_t code) const;

  int32_t device_;
  torch::stable::accelerator::DeviceGuard guard_;
};

}  // namespace dpad::cuda
