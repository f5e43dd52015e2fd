// The emulator notices what a GPU would do wrong.
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "catch.h"
#include "cuda/block.cuh"

using namespace dpad::cuda;

namespace {

// The error of a launch of two blocks of 64 threads, or nothing.
std::string error_of(const std::function<void()>& kernel) {
  try {
    emulator::run({2, 1, 1, 64, 64}, kernel);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

using Four = Pack<float, 4>;

}  // namespace

TEST_CASE("emulator: barriers and exchanges that do not meet") {
  CHECK(error_of([] { block_sync(); }).empty());
  CHECK(error_of([] {
          if (thread_index() < 32) block_sync();
        }) == "a thread left before a barrier");
  CHECK(error_of([] {
          if (thread_index() < 10) warp_xor(1, 1);
        }) == "a warp waits for its lanes");
  CHECK(error_of([] { thread_index() % 2 ? warp_xor(1, 1) : warp_from(1, 0); }) ==
        "the lanes of a warp diverge");
}

TEST_CASE("emulator: addresses") {
  alignas(16) static float memory[64];
  CHECK(error_of([] { read_pack<float, 4>(memory + 4); }).empty());
  CHECK(error_of([] { read_pack<float, 4>(memory + 2); }) ==
        "an address that is not aligned to 16 bytes");
  CHECK(error_of([] { copy_16(dynamic_shared(), memory + 1, true); }) ==
        "an address that is not aligned to 16 bytes");
  CHECK(error_of([] { copy_16(static_cast<float*>(dynamic_shared()) + 16, memory, true); }) ==
        "an address outside shared memory");
  CHECK(error_of([] { static_cast<float*>(dynamic_shared())[16] = 0; }) ==
        "write outside shared memory");
}

TEST_CASE("emulator: blocks that meet in global memory") {
  alignas(16) static float memory[64];
  const std::string met = "two blocks meet in global memory";
  CHECK(error_of([] { write_pack(memory + 4 * block_x(), Four{}); }).empty());
  CHECK(error_of([] { write_pack(memory, Four{}); }) == met);
  CHECK(error_of([] { read_pack<float, 4>(memory), read_pack<float, 2>(memory + 2); }).empty());
  CHECK(error_of([] {  // written by the first block, a part of it read by the second
          if (block_x() == 0) write_pack(memory, Four{});
          if (block_x() == 1) read_pack<float, 1>(memory + 3);
        }) == met);
  CHECK(error_of([] {  // read by both, then written by the second
          read_pack<float, 2>(memory + 2);
          if (block_x() == 1) write_pack(memory, Four{});
        }) == met);
  CHECK(error_of([] { write_pack(static_cast<float*>(dynamic_shared()), Four{}); }).empty());
}
