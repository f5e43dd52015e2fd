#include "cpu/isa.h"

#include <atomic>
#include <cstdlib>
#include <string>

namespace dpad::cpu {
namespace {

constexpr Isa kAll[] = {Isa::kPortable, Isa::kAvx2, Isa::kAvx512};

struct Choice {
  std::atomic<Isa> isa{Isa::kPortable};
  std::string problem;

  Choice() {
    for (const Isa candidate : kAll) {
      if (isa_supported(candidate)) isa = candidate;
    }
    const char* wanted = std::getenv("DPAD_ISA");
    if (wanted == nullptr || *wanted == '\0') return;
    for (const Isa candidate : kAll) {
      if (std::string(wanted) != isa_name(candidate)) continue;
      if (isa_supported(candidate)) {
        isa = candidate;
      } else {
        problem = std::string("DPAD_ISA=") + wanted + ": this processor does not support it";
      }
      return;
    }
    problem = std::string("DPAD_ISA=") + wanted + ": expected portable, avx2 or avx512";
  }
};

Choice& choice() {
  static Choice instance;
  return instance;
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kPortable:
      break;
  }
  return "portable";
}

bool isa_supported(Isa isa) {
  if (isa == Isa::kPortable) return true;
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  if (isa == Isa::kAvx2) return avx2;
  return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

Isa selected_isa() { return choice().isa.load(std::memory_order_relaxed); }

bool has_extension([[maybe_unused]] Extension extension) {
#if defined(__x86_64__)
  static const bool vnni = __builtin_cpu_supports("avx512vnni");
  static const bool bf16 = __builtin_cpu_supports("avx512bf16");
  return selected_isa() == Isa::kAvx512 && (extension == Extension::kVnni ? vnni : bf16);
#else
  return false;
#endif
}

const char* isa_problem() { return choice().problem.empty() ? nullptr : choice().problem.c_str(); }

void set_isa(Isa isa) { choice().isa.store(isa, std::memory_order_relaxed); }

}  // namespace dpad::cpu
