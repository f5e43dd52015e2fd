// What the launchers share.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>

#include "cuda/block.cuh"
#include "cuda/scalar.cuh"
#include "params.h"

namespace dpad::cuda {

// Calls run(T{}) with the element type of `dtype`.
template <class Run>
cudaError_t with_dtype(DType dtype, Run&& run) {
  switch (dtype) {
    case DType::kFloat32:
      return run(float{});
    case DType::kBFloat16:
      return run(BFloat16{});
    case DType::kFloat16:
      return run(Float16{});
  }
  return cudaErrorInvalidValue;
}

inline unsigned blocks_for(int64_t items, int64_t per_block, int64_t limit) {
  return static_cast<unsigned>(std::min((items + per_block - 1) / per_block, limit));
}

}  // namespace dpad::cuda
