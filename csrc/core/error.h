// Failure of a torch-free function: which argument, which element, which value. csrc/torch turns it
// into an exception that names the operator; nothing below it throws.
#pragma once

#include <cstdint>
#include <string>

namespace dpad {

struct Error {
  const char* argument = nullptr;  // null: no error
  const char* expected = "";       // what would have been accepted, e.g. "a value in [0, n)"
  int64_t index = -1;              // element of the argument, -1: a scalar
  double value = 0;                // the value found

  explicit operator bool() const { return argument != nullptr; }
};

// "argument 'position'[3] = 99: expected a value in [0, 64)"
std::string describe(const Error& error);

}  // namespace dpad
