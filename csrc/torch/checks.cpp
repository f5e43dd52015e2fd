#include "torch/checks.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <unordered_set>

namespace dpad {
namespace {

std::string shape_text(const Tensor& t) {
  std::string text = "[";
  for (int64_t d = 0; d < t.dim(); ++d) {
    text += (d ? ", " : "") + std::to_string(t.size(d));
  }
  return text + "]";
}

std::string sizes_text(std::initializer_list<int64_t> sizes) {
  std::string text = "[";
  for (auto it = sizes.begin(); it != sizes.end(); ++it) {
    text += (it != sizes.begin() ? ", " : "") + (*it < 0 ? std::string("*") : std::to_string(*it));
  }
  return text + "]";
}

// Bytes of a tensor of these sizes, or the largest number.
template <class Sizes>
int64_t bytes_of(const Sizes& sizes, int64_t element_size) {
  int64_t bytes = element_size;
  for (const int64_t size : sizes) {
    if (__builtin_mul_overflow(bytes, size, &bytes)) return std::numeric_limits<int64_t>::max();
  }
  return bytes;
}

// Of a tensor whose bytes can be counted.
std::vector<int64_t> contiguous_strides(std::initializer_list<int64_t> sizes) {
  std::vector<int64_t> strides(sizes.size());
  int64_t stride = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = stride;
    stride *= std::max<int64_t>(sizes.begin()[d], 1);
  }
  return strides;
}

// First and one-past-last byte that a strided tensor can touch; an empty one overlaps nothing.
struct Extent {
  const char *begin, *end;
};

Extent extent(const Tensor& t) {
  const auto* base = static_cast<const char*>(t.const_data_ptr());
  int64_t last = 0;
  for (int64_t d = 0; d < t.dim(); ++d) {
    if (t.size(d) == 0) return {nullptr, nullptr};
    last += (t.size(d) - 1) * t.stride(d);
  }
  const auto size = static_cast<int64_t>(t.element_size());
  return {base, base + (last + 1) * size};
}

}  // namespace

void Checks::fail(const std::string& what) const {
  throw std::runtime_error(std::string("dpad::") + op_ + ": " + what);
}

void Checks::out_of_memory(const std::string& what, int64_t bytes) const {
  fail("out of memory: " + what + (bytes < 0 ? "" : ", " + std::to_string(bytes) + " bytes,") +
       " could not be allocated");
}

void Checks::raise(const Error& error) const {
  if (error) fail(describe(error));
}

Checks::Checks(const char* op, const Tensor& like)
    : op_(op), on_cpu_(!like.defined() || like.is_cpu()) {
  if (!on_cpu_) device_ = like.get_device_index();
}

// Python's None arrives as an undefined tensor where the schema asks for one.
void Checks::exists(const char* name, const Tensor& t) const {
  if (!t.defined()) fail(std::string("argument '") + name + "' is None, expected a tensor");
}

void Checks::same_device(const char* name, const Tensor& t) const {
  exists(name, t);
  const bool same = on_cpu_ ? t.is_cpu() : t.is_cuda() && t.get_device_index() == device_;
  if (same) return;
  fail(std::string("argument '") + name + "' is not on the device of the first argument, " +
       (on_cpu_ ? "cpu" : "cuda:" + std::to_string(device_)));
}

void Checks::shape(const char* name, const Tensor& t, std::initializer_list<int64_t> sizes) const {
  same_device(name, t);
  bool good = t.dim() == static_cast<int64_t>(sizes.size());
  int64_t d = 0;
  for (const int64_t size : sizes) {
    good = good && (size < 0 || t.size(d) == size);
    ++d;
  }
  if (!good) {
    fail(std::string("argument '") + name + "' has shape " + shape_text(t) + ", expected " +
         sizes_text(sizes));
  }
}

void Checks::tensor(const char* name, const Tensor& t, ScalarType dtype,
                    std::initializer_list<int64_t> sizes) const {
  exists(name, t);
  if (t.scalar_type() != dtype) {
    fail(std::string("argument '") + name + "' has dtype " +
         torch::headeronly::toString(t.scalar_type()) + ", expected " +
         torch::headeronly::toString(dtype));
  }
  shape(name, t, sizes);
}

Tensor Checks::indices(const char* name, const Tensor& t, int64_t size) const {
  tensor(name, t, ScalarType::Long, {size});
  return contiguous(name, t);
}

void Checks::range(const char* name, const Tensor& t, int64_t low, int64_t high) const {
  if (!sees_values()) return;
  const int64_t* data = int64_data(t);
  for (int64_t i = 0; i < t.numel(); ++i) {
    if (data[i] < low || data[i] >= high) {
      fail(std::string("argument '") + name + "'[" + std::to_string(i) +
           "] = " + std::to_string(data[i]) + ": expected a value in [" + std::to_string(low) +
           ", " + std::to_string(high) + ")");
    }
  }
}

void Checks::offsets(const char* name, const Tensor& t, int64_t total) const {
  if (!sees_values()) return;
  const int64_t* data = int64_data(t);
  const int64_t n = t.numel();
  bool good = n >= 1 && data[0] == 0 && data[n - 1] == total;
  for (int64_t i = 1; good && i < n; ++i) good = data[i] >= data[i - 1];
  if (!good) {
    fail(std::string("argument '") + name + "' does not ascend from 0 to " + std::to_string(total));
  }
}

void Checks::distinct(const char* name, const Tensor& t) const {
  if (!sees_values()) return;
  std::unordered_set<int64_t> seen;
  const int64_t* data = int64_data(t);
  for (int64_t i = 0; i < t.numel(); ++i) {
    if (!seen.insert(data[i]).second) {
      fail(std::string("argument '") + name + "'[" + std::to_string(i) +
           "] = " + std::to_string(data[i]) + " stands there twice");
    }
  }
}

void Checks::disjoint(std::initializer_list<Named> written,
                      std::initializer_list<Named> read) const {
  std::vector<Extent> held;  // of the written ones so far
  const auto compare = [&](const Named& other, const Extent& e) {
    for (size_t i = 0; i < held.size(); ++i) {
      if (e.begin >= held[i].end || held[i].begin >= e.end) continue;
      fail(std::string("argument '") + written.begin()[i].name +
           "' is written and shares memory with '" + other.name + "'");
    }
  };
  for (const auto& argument : written) {
    exists(argument.name, argument.tensor);
    const Extent e = extent(argument.tensor);
    compare(argument, e);
    held.push_back(e);
  }
  for (const auto& argument : read) {
    exists(argument.name, argument.tensor);
    compare(argument, extent(argument.tensor));
  }
}

void Checks::distinct_elements(const char* name, const Tensor& t) const {
  std::vector<std::pair<int64_t, int64_t>> dims;  // stride, size
  for (int64_t d = 0; d < t.dim(); ++d) {
    if (t.size(d) == 0) return;
    if (t.size(d) > 1) dims.emplace_back(t.stride(d), t.size(d));
  }
  std::sort(dims.begin(), dims.end());
  int64_t span = 1;  // elements that the dimensions of smaller strides reach over
  for (const auto& [stride, size] : dims) {
    if (stride < span) {
      fail(std::string("argument '") + name + "' is written and a stride of " +
           std::to_string(stride) + " makes its elements overlap");
    }
    span += (size - 1) * stride;
  }
}

void Checks::last_dim_contiguous(const char* name, const Tensor& t) const {
  const int64_t d = t.dim() - 1;
  if (t.size(d) > 1 && t.stride(d) != 1) {
    fail(std::string("argument '") + name + "' has a last dimension of stride " +
         std::to_string(t.stride(d)) + ", expected 1");
  }
}

DType Checks::dtype(const char* name, const Tensor& t) const {
  exists(name, t);
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Half:
      return DType::kFloat16;
    default:
      fail(std::string("argument '") + name + "' has dtype " +
           torch::headeronly::toString(t.scalar_type()) +
           ", expected float32, bfloat16 or float16");
  }
}

void Checks::same_dtype(const char* name, const Tensor& t, const Tensor& like) const {
  exists(name, t);
  if (t.scalar_type() != like.scalar_type()) {
    fail(std::string("argument '") + name + "' has dtype " +
         torch::headeronly::toString(t.scalar_type()) + ", expected " +
         torch::headeronly::toString(like.scalar_type()));
  }
}

Tensor Checks::empty(std::initializer_list<int64_t> sizes, ScalarType dtype) const {
  const auto element = static_cast<int64_t>(aoti_torch_dtype_element_size(int32_t(dtype)));
  const int64_t bytes = bytes_of(sizes, element);
  try {
    if (bytes < std::numeric_limits<int64_t>::max()) {
      return empty_strided(sizes, contiguous_strides(sizes), dtype, on_cpu_ ? -1 : device_);
    }
  } catch (const std::exception&) {  // as below
  }
  out_of_memory("a result of shape " + sizes_text(sizes), bytes);
}

Tensor Checks::contiguous(const char* name, const Tensor& t) const {
  if (t.is_contiguous()) return t;
  try {
    return torch::stable::contiguous(t);
  } catch (const std::exception&) {
    out_of_memory(std::string("a contiguous copy of argument '") + name + "'",
                  bytes_of(t.sizes(), static_cast<int64_t>(t.element_size())));
  }
}

Tensor Checks::rows_contiguous(const char* name, const Tensor& t) const {
  const int64_t d = t.dim() - 1;
  return t.size(d) <= 1 || t.stride(d) == 1 ? t : contiguous(name, t);
}

}  // namespace dpad
