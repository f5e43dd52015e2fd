// Checks shared by the bindings. Every failure names the operator, the argument and the value, and
// is raised before any work, because exceptions cannot leave torch's thread pool with their text.
#pragma once

#include "core/error.h"
#include "torch/stable.h"

namespace dpad {

class Checks {
 public:
  // For operators without a tensor to follow: everything is on the CPU.
  explicit Checks(const char* op) : op_(op) {}
  // Every tensor has to be on the device of `like`.
  Checks(const char* op, const Tensor& like);

  // False on devices whose values would have to be read back: there the checks of values below
  // pass, and the kernels skip what is out of range.
  bool sees_values() const { return on_cpu_; }

  // Sizes of -1 accept any size.
  void tensor(const char* name, const Tensor& t, ScalarType dtype,
              std::initializer_list<int64_t> sizes) const;
  void shape(const char* name, const Tensor& t, std::initializer_list<int64_t> sizes) const;

  // A contiguous int64 index tensor of one dimension; `size` -1 accepts any.
  Tensor indices(const char* name, const Tensor& t, int64_t size) const;
  // Values in [low, high).
  void range(const char* name, const Tensor& t, int64_t low, int64_t high) const;
  // Starts at 0, ascends, ends at `total`.
  void offsets(const char* name, const Tensor& t, int64_t total) const;
  void distinct(const char* name, const Tensor& t) const;
  // Written arguments must not overlap anything else that is read or written.
  struct Named {
    const char* name;
    const Tensor& tensor;
  };
  void disjoint(std::initializer_list<Named> written, std::initializer_list<Named> read) const;
  // Written arguments must not overlap themselves, as expanded tensors do.
  void distinct_elements(const char* name, const Tensor& t) const;
  void last_dim_contiguous(const char* name, const Tensor& t) const;

  DType dtype(const char* name, const Tensor& t) const;
  void same_dtype(const char* name, const Tensor& t, const Tensor& like) const;
  void raise(const Error& error) const;
  [[noreturn]] void fail(const std::string& what) const;
  // `bytes` -1 where nobody knows how many.
  [[noreturn]] void out_of_memory(const std::string& what, int64_t bytes) const;

  // A new tensor on the device of `like`. A failure names the operator and the bytes.
  Tensor empty(std::initializer_list<int64_t> sizes, ScalarType dtype) const;
  // `t` itself, or a contiguous copy.
  Tensor contiguous(const char* name, const Tensor& t) const;
  // `t` itself, or a copy whose last dimension is contiguous.
  Tensor rows_contiguous(const char* name, const Tensor& t) const;

 private:
  void exists(const char* name, const Tensor& t) const;
  void same_device(const char* name, const Tensor& t) const;
  const char* op_;
  bool on_cpu_ = true;
  int32_t device_ = -1;  // index of the CUDA device
};

inline const int64_t* int64_data(const Tensor& t) { return t.const_data_ptr<int64_t>(); }

}  // namespace dpad
