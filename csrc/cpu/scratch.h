// Memory of one thread for the kernels' work items.
#pragma once

#include <cstdint>

namespace dpad::cpu {

// `count` floats, aligned to 64 bytes and kept for the thread's next item; what they hold is lost.
float* thread_scratch(int64_t count);

}  // namespace dpad::cpu
