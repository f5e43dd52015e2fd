// What was built and which instruction set runs.
#include "cpu/isa.h"
#include "torch/checks.h"
#include "torch/ops.h"

#ifndef DPAD_BUILD_INFO
#define DPAD_BUILD_INFO "unknown"
#endif

namespace dpad {

std::string build_info_op() { return DPAD_BUILD_INFO; }

std::string cpu_isa_op() {
  const Checks check("cpu_isa");
  if (const char* problem = cpu::isa_problem()) check.fail(problem);
  return cpu::isa_name(cpu::selected_isa());
}

std::string cpu_extensions_op() {
  std::string names;
  if (cpu::has_extension(cpu::Extension::kVnni)) names += "avx512vnni ";
  if (cpu::has_extension(cpu::Extension::kBf16)) names += "avx512bf16 ";
  return names;
}

void set_cpu_isa_op(const Text& name) {
  const Checks check("set_cpu_isa");
  for (const auto isa : {cpu::Isa::kPortable, cpu::Isa::kAvx2, cpu::Isa::kAvx512}) {
    if (name.value != cpu::isa_name(isa)) continue;
    if (!cpu::isa_supported(isa)) {
      check.fail("argument 'name' = \"" + name.value + "\": this processor does not support it");
    }
    cpu::set_isa(isa);
    return;
  }
  check.fail("argument 'name' = \"" + name.value + "\": expected portable, avx2 or avx512");
}

}  // namespace dpad
