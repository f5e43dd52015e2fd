// A CUDA runtime without a device, for the launchers of csrc/cuda as nvcc compiled them. A launch
// is checked as a GPU would check it and queued with copies of its arguments; synchronize() then
// runs the kernel's source in the emulator on the host memory that the arguments point to.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "cuda_emulator.h"

namespace dpad::test {

struct FakeDevice {
  int number = 1;  // of the current device
  int major = 9, processors = 132;
  int64_t opt_in_shared = 227 << 10;  // bytes of shared memory that a block can have at most
};

// Work in the order of its stream.
struct QueuedWork {
  std::string name;  // of the kernel, as "swiglu_kernel<float, 4>", or of the runtime's function
  dim3 grid, block;
  size_t shared_bytes;
  cudaStream_t stream;
  std::function<void()> run;
};

struct FakeCuda {
  FakeDevice device;
  cuda::emulator::Order order = cuda::emulator::Order::kForward;
  std::vector<QueuedWork> queue;

  // The call of this name, after `skip` more of them, fails with the code; "launch" is any launch.
  void fail(const std::string& call, cudaError_t code, int skip = 0);
  // True while that call has not been made.
  bool will_fail(const std::string& call) const;
  // Runs what is queued; work of the same stream runs in its order.
  void synchronize();
  // A new process: nothing queued, no error, no attribute set, nothing that will fail.
  void reset();
  // Mangled names of the kernels that the launchers brought along.
  std::vector<std::string> registered() const;
};

FakeCuda& fake_cuda();

// A kernel that g++ compiled for the emulator.
struct EmulatedKernel {
  size_t static_shared;  // bytes, at most, that its compiled form has
  std::function<std::function<void()>(void** arguments)> bind;  // copies the arguments
};

// By mangled name.
const std::map<std::string, EmulatedKernel>& emulated_kernels();

}  // namespace dpad::test
