// What the launchers share.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>

#include "cuda/block.cuh"
#include "cuda/scalar.cuh"
#include "params.h"

namespace dpad::cuda {

inline constexpr int64_t kMostBlocks = 0x7FFFFFFF;  // of a launch, along x

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

// `code`, which the runtime forgets: else the next launch that asks for the last error would get
// it.
inline cudaError_t reported(cudaError_t code) {
  if (code != cudaSuccess) cudaGetLastError();
  return code;
}

// Lets a kernel have this much dynamic shared memory on the current device, and asks for a division
// of the processor's memory under which several of its blocks fit: left alone, the driver may
// choose one that holds a single block. Not an operation of a stream: allowed during capture.
template <class... Params>
cudaError_t allow_shared_memory(void (*kernel)(Params...), int bytes) {
  const cudaError_t code =
      reported(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  if (code != cudaSuccess) return code;
  return reported(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                       cudaSharedmemCarveoutMaxShared));
}

// Queues a kernel; the error is that of this launch and of no call before it.
template <class... Params, class... Arguments>
cudaError_t launch_kernel(void (*kernel)(Params...), dim3 grid, int threads, size_t shared_bytes,
                          cudaStream_t stream, const Arguments&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return reported(cudaLaunchKernelEx(&config, kernel, Params(arguments)...));
}

}  // namespace dpad::cuda
