// Which compiled instruction set the CPU kernels run on.
#pragma once

namespace dpad::cpu {

enum class Isa { kPortable, kAvx2, kAvx512 };

const char* isa_name(Isa isa);
bool isa_supported(Isa isa);

// The best supported set, or the one that the environment variable DPAD_ISA names. Read once.
Isa selected_isa();

// Why DPAD_ISA could not be followed (the best supported set is used then), or null.
const char* isa_problem();

// What the processor can do beyond the selected set, for kernels with a variant of their own.
enum class Extension { kVnni, kBf16 };
bool has_extension(Extension extension);

// Replaces the choice, so that one process can test every set. The set must be supported.
void set_isa(Isa isa);

// The entry point of the selected set: `DPAD_PICK(swiglu)` names one of swiglu_portable,
// swiglu_avx2 and swiglu_avx512.
template <typename Function>
Function* pick(Function* portable, Function* avx2, Function* avx512) {
  switch (selected_isa()) {
    case Isa::kAvx512:
      return avx512;
    case Isa::kAvx2:
      return avx2;
    case Isa::kPortable:
      break;
  }
  return portable;
}

#if defined(__x86_64__)
#define DPAD_PICK(name) ::dpad::cpu::pick(name##_portable, name##_avx2, name##_avx512)
#else
#define DPAD_PICK(name) name##_portable
#endif

// Declares `Result name(Parameters)` for every instruction set.
#define DPAD_DECLARE_ISA(Result, name, ...) \
  Result name##_portable(__VA_ARGS__);      \
  Result name##_avx2(__VA_ARGS__);          \
  Result name##_avx512(__VA_ARGS__)

}  // namespace dpad::cpu
