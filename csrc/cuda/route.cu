#include "cuda/route.h"

#include "cuda/launch.cuh"
#include "cuda/route.cuh"

namespace dpad::cuda {

int64_t route_scratch(const RouteParams& p) {
  return p.rows * RouteRow::words(p) * static_cast<int64_t>(sizeof(int32_t));
}

cudaError_t launch_route(const RouteParams& p, void* scratch, cudaStream_t stream) {
  if (p.rows <= 0) return cudaSuccess;
  const cudaError_t code = with_dtype(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    const unsigned blocks = blocks_for(p.rows, kRouteRows, kMostBlocks);
    return launch_kernel(route_kernel<T>, blocks, kThreads, 0, stream, p,
                         static_cast<int32_t*>(scratch));
  });
  if (code != cudaSuccess) return code;
  const unsigned experts = blocks_for(p.experts, 1, kMostBlocks);
  return launch_kernel(route_order_kernel, experts, kThreads, 0, stream, p);
}

}  // namespace dpad::cuda
