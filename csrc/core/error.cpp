#include "core/error.h"

#include <fmt/format.h>

namespace dpad {

std::string describe(const Error& error) {
  if (!error) return "no error";
  const std::string where = error.index < 0 ? std::string() : fmt::format("[{}]", error.index);
  return fmt::format("argument '{}'{} = {:.17g}: expected {}", error.argument, where, error.value,
                     error.expected);
}

}  // namespace dpad
