// Memory for the work items of one call. It is taken before they run, because nothing may be thrown
// out of torch's thread pool, and a call that cannot have it must not have begun.
#pragma once

#include <cstdint>

namespace dpad::cpu {

// `parts` pieces of `bytes` each, aligned to 64 bytes: one for each piece of work that may run at
// the same time. What they hold is lost. A small buffer stays with the thread for its next call.
class Scratch {
 public:
  Scratch(int64_t parts, int64_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // False where the memory could not be had; the thread then remembers nothing of it.
  explicit operator bool() const { return size_ == 0 || data_ != nullptr; }
  // Bytes of all parts together.
  int64_t size() const { return size_; }
  void* part(int64_t index) const { return data_ + index * stride_; }

 private:
  char* data_ = nullptr;
  int64_t stride_ = 0, size_ = 0, capacity_ = 0;
};

}  // namespace dpad::cpu
