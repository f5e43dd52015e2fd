// A small kernel with and without programmatic dependent launch, which torch launches none with.
#include <cuda_runtime.h>

// Adds one to every element of `data`; `size` 0 leaves nothing but the launch.
__global__ void small(float* data, int size) {
#if __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();  // the next kernel may be set up now
  cudaGridDependencySynchronize();            // and reads only what is finished
#endif
  int i = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
  if (i >= size) return;
  float4* at = reinterpret_cast<float4*>(data + i);
  float4 value = *at;
  *at = make_float4(value.x + 1, value.y + 1, value.z + 1, value.w + 1);
}

// Queues the kernel with room for `most` elements, a multiple of 1,024; the error's text or null.
extern "C" const char* launch(void* stream, float* data, int size, int most, bool early) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.blockDim = 256;
  config.gridDim = most / 1024;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &attribute;
  config.numAttrs = early ? 1 : 0;
  cudaError_t error = cudaLaunchKernelEx(&config, small, data, size);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}
