// What the kernels use of the machine: where a thread stands, barriers, warp exchanges,
// asynchronous copies, tensor-core products. Compiled by nvcc these are the hardware's; elsewhere
// the same names come from an emulator, which the tests supply, so that whole kernels run on the
// host.
#pragma once

#include <cstdint>

#include "cuda/scalar.cuh"

#if !defined(__CUDACC__)
#include "cuda_emulator.h"
#else

#define DPAD_DEVICE __device__ __forceinline__
#define DPAD_SHARED __shared__
#define DPAD_UNROLL _Pragma("unroll")
#define DPAD_NO_UNROLL _Pragma("unroll 1")
// A kernel of blocks of at most `threads` threads, of which `blocks` have to fit on a processor.
#define DPAD_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)

namespace dpad::cuda {

constexpr unsigned kAllLanes = 0xFFFFFFFFu;

// Below sm_80 the launchers choose kernels without these instructions.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define DPAD_SM80(...) __trap()
#else
#define DPAD_SM80(...) asm volatile(__VA_ARGS__)
#endif

DPAD_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
// The same, read anew: for use after a long loop, over which a register would be dear.
DPAD_DEVICE int thread_index_again() {
  int index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
}
DPAD_DEVICE int64_t block_x() { return blockIdx.x; }
DPAD_DEVICE int64_t block_y() { return blockIdx.y; }
DPAD_DEVICE int64_t block_z() { return blockIdx.z; }
DPAD_DEVICE int64_t grid_x() { return gridDim.x; }
DPAD_DEVICE int64_t grid_y() { return gridDim.y; }

// Shared memory whose size the launch names; aligned to 16 bytes.
DPAD_DEVICE void* dynamic_shared() {
  extern __shared__ uint4 memory[];
  return memory;
}

DPAD_DEVICE void block_sync() { __syncthreads(); }
DPAD_DEVICE bool any_in_block(bool value) { return __syncthreads_or(value) != 0; }

template <class V>
DPAD_DEVICE V warp_xor(V value, int lanes) {
  return __shfl_xor_sync(kAllLanes, value, lanes);
}

// The value of lane `from`, which is taken modulo 32.
template <class V>
DPAD_DEVICE V warp_from(V value, int from) {
  return __shfl_sync(kAllLanes, value, from);
}

// Memory that other blocks write: stores before a fence are seen by loads after one.
DPAD_DEVICE void fence() { __threadfence(); }
DPAD_DEVICE unsigned take_ticket(unsigned* counter) { return atomicAdd(counter, 1u); }
template <class V>
DPAD_DEVICE V load_fresh(const V* from) {
  return __ldcg(from);
}

DPAD_DEVICE void atomic_or(unsigned* word, unsigned bits) { atomicOr(word, bits); }

// Copies 16 bytes to shared memory in the background, or zeros where `valid` is false. A commit
// closes a group of copies; wait_copies<N> waits for all but the N newest groups of this thread.
DPAD_DEVICE void copy_16(void* shared, const void* global, bool valid) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = valid ? 16 : 0;
  DPAD_SM80("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global),
            "r"(bytes) : "memory");
}
DPAD_DEVICE void commit_copies() { DPAD_SM80("cp.async.commit_group;" :: : "memory"); }
template <int N>
DPAD_DEVICE void wait_copies() {
  DPAD_SM80("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Four 8 x 8 matrices of 16-bit elements. Lane 8 i + r names the 16 bytes of row r of matrix i;
// lane l receives in out[i] the elements (l / 4, 2 (l % 4)) and (l / 4, 2 (l % 4) + 1), of the
// transposed matrix by the second function.
DPAD_DEVICE void load_matrices(uint32_t (&out)[4], const void* row) {
  const auto from = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  DPAD_SM80("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(out[0]),
            "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(from) : "memory");
}
DPAD_DEVICE void load_transposed(uint32_t (&out)[4], const void* row) {
  const auto from = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  DPAD_SM80("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(out[0]),
            "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(from) : "memory");
}

// c += a b over a warp: a 16 x 16, b 16 x 8, c 16 x 8 in float32, in the layout of mma.m16n8k16.
DPAD_DEVICE void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                              BFloat16) {
  DPAD_SM80(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" : "+f"(c[0]),
      "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0),
      "r"(b1));
}
DPAD_DEVICE void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                              Float16) {
  DPAD_SM80(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" : "+f"(c[0]),
      "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0),
      "r"(b1));
}

}  // namespace dpad::cuda
#endif
