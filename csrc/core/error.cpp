#include "core/error.h"

#include <fmt/format.h>

#include <cmath>

namespace dpad {

std::string describe(const Error& error) {
  if (!error) return "no error";
  const std::string where = error.index < 0 ? std::string() : fmt::format("[{}]", error.index);
  const bool whole = error.value == std::trunc(error.value) && std::fabs(error.value) < 0x1p64;
  const std::string value =
      whole ? fmt::format("{:.0f}", error.value) : fmt::format("{:.17g}", error.value);
  return fmt::format("argument '{}'{} = {}: expected {}", error.argument, where, value,
                     error.expected);
}

}  // namespace dpad
