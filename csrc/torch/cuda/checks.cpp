#include "torch/cuda/checks.h"

#include <string>

namespace dpad::cuda {
namespace {

std::string text(const Tensor& t) {
  std::string out;
  for (int64_t d = 0; d < t.dim(); ++d) out += (d ? ", " : "") + std::to_string(t.size(d));
  return "[" + out + "]";
}

}  // namespace

DeviceChecks::DeviceChecks(const char* op, const char* name, const Tensor& like)
    : Checks(op), device_(device_of(name, like)), guard_(device_) {}

// An operator runs here when any argument is on a CUDA device, so `t` may be elsewhere.
int32_t DeviceChecks::device_of(const char* name, const Tensor& t) const {
  if (!t.is_cuda()) fail(std::string("argument '") + name + "' is not on a CUDA device");
  return t.get_device_index();
}

void DeviceChecks::shape(const char* name, const Tensor& t,
                         std::initializer_list<int64_t> sizes) const {
  const std::string argument = std::string("argument '") + name + "'";
  if (!t.is_cuda() || t.get_device_index() != device_) {
    fail(argument + " is not on the device cuda:" + std::to_string(device_));
  }
  bool good = t.dim() == static_cast<int64_t>(sizes.size());
  int64_t d = 0;
  std::string expected;
  for (const int64_t size : sizes) {
    good = good && (size < 0 || t.size(d) == size);
    expected += (d++ ? ", " : "") + (size < 0 ? std::string("*") : std::to_string(size));
  }
  if (!good) fail(argument + " has shape " + text(t) + ", expected [" + expected + "]");
}

void DeviceChecks::tensor(const char* name, const Tensor& t, ScalarType dtype,
                          std::initializer_list<int64_t> sizes) const {
  if (t.scalar_type() != dtype) {
    fail(std::string("argument '") + name + "' has dtype " +
         torch::headeronly::toString(t.scalar_type()) + ", expected " +
         torch::headeronly::toString(dtype));
  }
  shape(name, t, sizes);
}

Tensor DeviceChecks::indices(const char* name, const Tensor& t, int64_t size) const {
  tensor(name, t, ScalarType::Long, {size});
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}

cudaStream_t DeviceChecks::stream() const {
  void* stream = nullptr;
  if (aoti_torch_get_current_cuda_stream(device_, &stream) != 0) {
    fail("torch did not hand out its current stream");
  }
  return static_cast<cudaStream_t>(stream);
}

void DeviceChecks::expect_success(cudaError_t code) const {
  if (code != cudaSuccess) {
    fail(std::string("the kernel could not be launched: ") + cudaGetErrorString(code));
  }
}

}  // namespace dpad::cuda
