// The CUDA kernels, on torch's current stream of the tensors' device.
#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>

#include "cuda/add_rms_norm.h"
#include "cuda/block_attention.h"
#include "cuda/combine.h"
#include "cuda/confidence.h"
#include "cuda/rope_kv_write.h"
#include "cuda/route.h"
#include "cuda/suffix_gather.h"
#include "cuda/swiglu.h"
#include "cuda/uniform.h"
#include "cuda/unmask.h"
#include "torch/kernels.h"

namespace dpad {
namespace {

using torch::stable::accelerator::DeviceGuard;

// Queues work on the current stream of the tensors' device, which is made current.
template <class Launch>
void queue(const Call& call, Launch&& launch) {
  const int32_t device = call.like.get_device_index();
  const DeviceGuard guard(device);
  void* stream = nullptr;
  if (aoti_torch_get_current_cuda_stream(device, &stream) != 0) {
    call.check.fail("torch did not hand out its current stream");
  }
  const cudaError_t code = launch(static_cast<cudaStream_t>(stream));
  if (code != cudaSuccess) {
    call.check.fail(std::string("the kernel could not be launched: ") + cudaGetErrorString(code));
  }
}

template <class Params>
void queue(const Call& call, const Params& p, cudaError_t (*launch)(const Params&, cudaStream_t)) {
  queue(call, [&](cudaStream_t stream) { return launch(p, stream); });
}

// For kernels that need scratch memory: torch frees it in the order of the stream.
template <class Params>
void queue(const Call& call, const Params& p, int64_t (*bytes)(const Params&),
           cudaError_t (*launch)(const Params&, void*, cudaStream_t)) {
  const DeviceGuard guard(call.like.get_device_index());
  const Tensor scratch = call.check.empty({bytes(p)}, ScalarType::Byte);
  queue(call, [&](cudaStream_t stream) { return launch(p, scratch.mutable_data_ptr(), stream); });
}

}  // namespace

void run(const Call& call, const SuffixGatherParams& p) {
  queue(call, p, cuda::launch_suffix_gather);
}

void run(const Call& call, const RopeKvWriteParams& p) {
  queue(call, p, cuda::launch_rope_kv_write);
}

void run(const Call& call, const BlockAttentionParams& p) {
  queue(call, p, cuda::block_attention_scratch, cuda::launch_block_attention);
}

void run(const Call& call, const AddRmsNormParams& p) { queue(call, p, cuda::launch_add_rms_norm); }

void run(const Call& call, const SwigluParams& p) { queue(call, p, cuda::launch_swiglu); }

void run(const Call& call, const RouteParams& p) {
  queue(call, p, cuda::route_scratch, cuda::launch_route);
}

void run(const Call& call, const CombineParams& p) {
  queue(call, p, cuda::combine_scratch, cuda::launch_combine);
}

void run(const Call& call, const ConfidenceParams& p) {
  queue(call, p, cuda::confidence_scratch, cuda::launch_confidence);
}

void run(const Call& call, const UniformParams& p) { queue(call, p, cuda::launch_uniform); }

void run(const Call& call, const UnmaskParams& p) {
  queue(call, p, cuda::unmask_scratch, cuda::launch_unmask);
}

}  // namespace dpad
