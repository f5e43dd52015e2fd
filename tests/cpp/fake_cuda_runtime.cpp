#include "fake_cuda_runtime.h"

#include <cxxabi.h>

#include <cstdlib>
#include <memory>
#include <optional>
#include <stdexcept>

namespace dpad::test {
namespace {

constexpr size_t kShared = 48 << 10;  // bytes of a block without the attribute

struct Failure {
  cudaError_t code;
  int skip;
};

struct Configuration {
  dim3 grid, block;
  size_t shared_bytes;
  cudaStream_t stream;
};

struct Runtime {
  FakeCuda shown;
  std::map<const void*, std::string> kernels;  // host function -> mangled name
  std::map<const void*, size_t> opted_in;      // host function -> bytes
  std::map<std::string, Failure> failures;
  std::optional<Configuration> pushed;
  cudaError_t last = cudaSuccess;
};

// Made by the first kernel that is registered, before any constructor of the program runs.
Runtime& runtime() {
  static Runtime runtime;
  return runtime;
}

// What a call returns, and what cudaGetLastError() will say of it.
cudaError_t done(cudaError_t code) {
  if (code != cudaSuccess) runtime().last = code;
  return code;
}

cudaError_t failure_of(const std::string& call) {
  const auto found = runtime().failures.find(call);
  if (found == runtime().failures.end() || found->second.skip-- > 0) return cudaSuccess;
  const cudaError_t code = found->second.code;
  runtime().failures.erase(found);
  return code;
}

// "dpad::cuda::name<arguments>" without return type, namespace and parameters.
std::string shown_name(const std::string& mangled) {
  const std::unique_ptr<char, void (*)(void*)> text(
      abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, nullptr), std::free);
  std::string name = text ? text.get() : mangled;
  name = name.substr(0, name.rfind('('));
  const std::string space = "dpad::cuda::";
  for (size_t at; (at = name.find(space)) != std::string::npos;) name.erase(at, space.size());
  return name.substr(name.rfind("void ", 0) == 0 ? 5 : 0);
}

bool sane(const dim3& grid, const dim3& block) {
  const auto within = [](unsigned size, unsigned most) { return size > 0 && size <= most; };
  return within(grid.x, 0x7FFFFFFF) && within(grid.y, 65535) && within(grid.z, 65535) &&
         within(block.x, 1024) && within(block.y, 1024) && within(block.z, 64) &&
         uint64_t{block.x} * block.y * block.z <= 1024;
}

cudaError_t launch(const void* host, const Configuration& c, void** arguments) {
  if (const cudaError_t code = failure_of("launch")) return done(code);
  const auto found = runtime().kernels.find(host);
  if (found == runtime().kernels.end()) return done(cudaErrorInvalidDeviceFunction);
  const auto kernel = emulated_kernels().find(found->second);
  if (kernel == emulated_kernels().end()) {
    throw std::logic_error("not in the table of emulated kernels: " + found->second);
  }
  if (!sane(c.grid, c.block)) return done(cudaErrorInvalidConfiguration);
  const auto raised = runtime().opted_in.find(host);
  const size_t fixed = kernel->second.static_shared;
  const size_t most = raised == runtime().opted_in.end() ? kShared - fixed : raised->second;
  if (c.shared_bytes > most) return done(cudaErrorInvalidValue);
  if (c.block.y * c.block.z != 1) throw std::logic_error("the emulator's blocks are flat");
  const cuda::emulator::Launch emulated{c.grid.x,       c.grid.y,
                                        c.grid.z,       static_cast<int>(c.block.x),
                                        c.shared_bytes, runtime().shown.order};
  const std::function<void()> body = kernel->second.bind(arguments);
  runtime().shown.queue.push_back({shown_name(found->second), c.grid, c.block, c.shared_bytes,
                                   c.stream, [=] { cuda::emulator::run(emulated, body); }});
  return cudaSuccess;
}

}  // namespace

FakeCuda& fake_cuda() { return runtime().shown; }

void FakeCuda::fail(const std::string& call, cudaError_t code, int skip) {
  runtime().failures[call] = {code, skip};
}

bool FakeCuda::will_fail(const std::string& call) const {
  return runtime().failures.count(call) > 0;
}

void FakeCuda::synchronize() {
  const std::vector<QueuedWork> works = std::move(queue);
  queue.clear();
  for (const QueuedWork& work : works) work.run();
}

void FakeCuda::reset() {
  *this = FakeCuda();
  runtime().opted_in.clear();
  runtime().failures.clear();
  runtime().last = cudaSuccess;
}

std::vector<std::string> FakeCuda::registered() const {
  std::vector<std::string> names;
  for (const auto& [host, name] : runtime().kernels) names.push_back(name);
  return names;
}

}  // namespace dpad::test

using namespace dpad::test;

// What nvcc's host code and CUDA's headers call. No header declares those with underscores.
extern "C" {

void** __cudaRegisterFatBinary(void*) {
  static void* handle = nullptr;
  return &handle;
}

void __cudaRegisterFatBinaryEnd(void**) {}

void __cudaUnregisterFatBinary(void**) {}

// For managed variables; named, though never called, by code that is not optimised.
char __cudaInitModule(void**) { return 0; }

void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, uint3*, uint3*,
                            dim3*, dim3*, int*) {
  runtime().kernels[host] = name;
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes,
                                     cudaStream_t stream) {
  runtime().pushed = Configuration{grid, block, shared_bytes, stream};
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared_bytes,
                                       void* stream) {
  if (!runtime().pushed) return done(cudaErrorMissingConfiguration);
  const Configuration c = *runtime().pushed;
  runtime().pushed.reset();
  *grid = c.grid, *block = c.block, *shared_bytes = c.shared_bytes;
  *static_cast<cudaStream_t*>(stream) = c.stream;
  return cudaSuccess;
}

cudaError_t __cudaGetKernel(const void** kernel, const void* host) {
  *kernel = host;
  return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments,
                               size_t shared_bytes, cudaStream_t stream) {
  return launch(kernel, {grid, block, shared_bytes, stream}, arguments);
}

cudaError_t cudaLaunchKernel(const void* host, dim3 grid, dim3 block, void** arguments,
                             size_t shared_bytes, cudaStream_t stream) {
  return launch(host, {grid, block, shared_bytes, stream}, arguments);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void* host, void** arguments) {
  if (c->numAttrs != 0) throw std::logic_error("the fake runtime knows no launch attributes");
  return launch(host, {c->gridDim, c->blockDim, c->dynamicSmemBytes, c->stream}, arguments);
}

cudaError_t cudaFuncSetAttribute(const void* host, cudaFuncAttribute attribute, int value) {
  if (const cudaError_t code = failure_of("cudaFuncSetAttribute")) return done(code);
  const auto found = runtime().kernels.find(host);
  if (found == runtime().kernels.end()) return done(cudaErrorInvalidDeviceFunction);
  const size_t fixed = emulated_kernels().at(found->second).static_shared;
  const int64_t most = fake_cuda().device.opt_in_shared - static_cast<int64_t>(fixed);
  switch (attribute) {
    case cudaFuncAttributePreferredSharedMemoryCarveout:  // a hint, in percent; -1: none
      return done(value < -1 || value > 100 ? cudaErrorInvalidValue : cudaSuccess);
    case cudaFuncAttributeMaxDynamicSharedMemorySize:
      if (value < 0 || value > most) return done(cudaErrorInvalidValue);
      runtime().opted_in[host] = value;
      return cudaSuccess;
    default:
      throw std::logic_error("the fake runtime does not know this attribute of a function");
  }
}

cudaError_t cudaGetDevice(int* device) {
  if (const cudaError_t code = failure_of("cudaGetDevice")) return done(code);
  *device = fake_cuda().device.number;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (const cudaError_t code = failure_of("cudaDeviceGetAttribute")) return done(code);
  const FakeDevice& current = fake_cuda().device;
  if (device != current.number) return done(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor:
      *value = current.major;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = current.processors;
      return cudaSuccess;
    default:
      throw std::logic_error("the fake device does not know this attribute");
  }
}

cudaError_t cudaGetLastError() {
  const cudaError_t code = runtime().last;
  runtime().last = cudaSuccess;
  return code;
}

}  // extern "C"
