// What the kernels use of the machine: where a thread stands, barriers, warp exchanges,
// asynchronous copies, tensor-core products. Compiled by nvcc these are the hardware's; elsewhere
// the same names come from an emulator, which the tests supply, so that whole kernels run on the
// host. Nothing here lets the blocks of a launch see what the others write: what they find together
// is put together by a second kernel.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/scalar.cuh"

#if !defined(__CUDACC__)
#include "cuda_emulator.h"
#else

#define DPAD_DEVICE __device__ __forceinline__
#define DPAD_SHARED __shared__
#define DPAD_UNROLL _Pragma("unroll")
#define DPAD_NO_UNROLL _Pragma("unroll 1")
#define DPAD_UNROLL_BY(n) DPAD_PRAGMA(unroll n)
#define DPAD_PRAGMA(...) _Pragma(#__VA_ARGS__)
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

// Packs are read and written as vectors of words, spelled out: the compiler makes single accesses
// of stores of small elements. `from` and `to` are aligned to kWord bytes of the pack; 16 bytes are
// written to global memory only.
template <class T, int N>
DPAD_DEVICE Pack<T, N> read_pack(const T* from) {
  Pack<T, N> pack;
  if constexpr (N == 1) {
    pack.at[0] = *from;
  } else if constexpr (Pack<T, N>::kWord == 16) {
    uint4 words[Pack<T, N>::kBytes / 16];
    DPAD_UNROLL
    for (int i = 0; i < Pack<T, N>::kBytes / 16; ++i) {
      words[i] = reinterpret_cast<const uint4*>(from)[i];
    }
    memcpy(&pack, words, sizeof pack);
  } else {
    using Word = std::conditional_t<Pack<T, N>::kWord == 8, uint2, uint32_t>;
    const Word word = *reinterpret_cast<const Word*>(from);
    memcpy(&pack, &word, sizeof pack);
  }
  return pack;
}

DPAD_DEVICE uint32_t word_of(const float* at) { return __float_as_uint(at[0]); }
template <class T>
DPAD_DEVICE uint32_t word_of(const T* at) {
  return at[0].bits | static_cast<uint32_t>(at[1].bits) << 16;
}

template <class T, int N>
DPAD_DEVICE void write_pack(T* to, const Pack<T, N>& pack) {
  constexpr int kEach = 4 / sizeof(T);  // elements of a word
  const auto word = [&](int i) { return word_of(pack.at + i * kEach); };
  if constexpr (N == 1) {
    *to = pack.at[0];
  } else if constexpr (Pack<T, N>::kWord == 16) {
    DPAD_UNROLL
    for (int i = 0; i < Pack<T, N>::kBytes / 16; ++i) {
      asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to + 4 * kEach * i),
                   "r"(word(4 * i)), "r"(word(4 * i + 1)), "r"(word(4 * i + 2)),
                   "r"(word(4 * i + 3))
                   : "memory");
    }
  } else if constexpr (Pack<T, N>::kWord == 8) {
    *reinterpret_cast<uint2*>(to) = make_uint2(word(0), word(1));
  } else {
    *reinterpret_cast<uint32_t*>(to) = word(0);
  }
}

// 2^x within two units in the last place; results below 2^-126 become 0.
DPAD_DEVICE float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// One bit for every lane whose value is true.
DPAD_DEVICE unsigned warp_votes(bool value) { return __ballot_sync(kAllLanes, value); }
// The highest lane in `votes`, -1 where there is none.
DPAD_DEVICE int highest_lane(unsigned votes) { return 31 - __clz(static_cast<int>(votes)); }

DPAD_DEVICE void atomic_or(unsigned* word, unsigned bits) { atomicOr(word, bits); }

// Copies 16 bytes to shared memory in the background, or zeros where `valid` is false. A commit
// closes a group of copies; wait_copies<N> waits for all but the N newest groups of this thread.
DPAD_DEVICE void copy_16(void* shared, const void* global, bool valid) {
  [[maybe_unused]] const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  [[maybe_unused]] const int bytes = valid ? 16 : 0;
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
  [[maybe_unused]] const auto from = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  DPAD_SM80("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(out[0]),
            "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(from) : "memory");
}
DPAD_DEVICE void load_transposed(uint32_t (&out)[4], const void* row) {
  [[maybe_unused]] const auto from = static_cast<uint32_t>(__cvta_generic_to_shared(row));
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
