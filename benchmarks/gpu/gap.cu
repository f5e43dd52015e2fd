// Microseconds of a small kernel and the gap behind it, in one CUDA graph of kernels that follow
// one another, with and without programmatic dependent launch. Prints one JSON object.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#define CHECK(call)                                                     \
  if (cudaError_t error = (call); error != cudaSuccess) {               \
    std::fprintf(stderr, "%s: %s\n", #call, cudaGetErrorString(error)); \
    std::exit(1);                                                       \
  }

constexpr int kRows = 32, kWidth = 4096, kThreads = 256, kReplays = 100;

// Adds one to every element; `size` 0 leaves nothing but the launch.
__global__ void small(float* data, int size) {
#if __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();  // the next kernel may be set up now
  cudaGridDependencySynchronize();            // and reads only what is finished
#endif
  int i = (blockIdx.x * kThreads + threadIdx.x) * 4;
  if (i >= size) return;
  float4* at = reinterpret_cast<float4*>(data + i);
  float4 value = *at;
  *at = make_float4(value.x + 1, value.y + 1, value.z + 1, value.w + 1);
}

void launch(cudaStream_t stream, float* data, int size, bool early) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = kRows * kWidth / (4 * kThreads);
  config.blockDim = kThreads;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = early ? 1 : 0;
  CHECK(cudaLaunchKernelEx(&config, small, data, size));
}

// Median microseconds of a replay of `count` kernels.
float replay(cudaStream_t stream, float* data, int size, bool early, int count) {
  cudaGraph_t graph;
  cudaGraphExec_t made;
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  for (int i = 0; i < count; ++i) launch(stream, data, size, early);
  CHECK(cudaStreamEndCapture(stream, &graph));
  CHECK(cudaGraphInstantiate(&made, graph, 0));
  cudaEvent_t start, end;
  CHECK(cudaEventCreate(&start));
  CHECK(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i < kReplays + 5; ++i) {
    CHECK(cudaEventRecord(start, stream));
    CHECK(cudaGraphLaunch(made, stream));
    CHECK(cudaEventRecord(end, stream));
    CHECK(cudaEventSynchronize(end));
    float ms = 0;
    CHECK(cudaEventElapsedTime(&ms, start, end));
    if (i >= 5) times.push_back(ms * 1e3f);
  }
  CHECK(cudaGraphExecDestroy(made));
  CHECK(cudaGraphDestroy(graph));
  std::nth_element(times.begin(), times.begin() + kReplays / 2, times.end());
  return times[kReplays / 2];
}

int main() {
  constexpr int kFew = 64, kMany = 512;
  cudaStream_t stream;
  float* data;
  int major = 0;
  CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
  CHECK(cudaStreamCreate(&stream));
  CHECK(cudaMalloc(&data, sizeof(float) * kRows * kWidth));
  CHECK(cudaMemset(data, 0, sizeof(float) * kRows * kWidth));
  std::printf("{\"dependent_launch\": %s", major >= 9 ? "true" : "false");
  for (int early = 0; early < (major >= 9 ? 2 : 1); ++early) {
    for (int size : {0, kRows * kWidth}) {
      float few = replay(stream, data, size, early, kFew);
      float many = replay(stream, data, size, early, kMany);
      std::printf(", \"%s, %s\": %.3f", size ? "small" : "empty", early ? "early" : "plain",
                  (many - few) / (kMany - kFew));
    }
  }
  std::printf("}\n");
  return 0;
}
