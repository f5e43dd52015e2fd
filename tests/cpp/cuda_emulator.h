// Runs whole CUDA kernels on the host: one fiber per thread of a block, blocks one after the other.
//
// A fiber runs until it waits: at a barrier for its block, at an exchange for the 32 lanes of its
// warp. Fibers and blocks are taken forward or backward, each warp as far as it can go, or
// shuffled, so that a result that depends on the order (a missing barrier) shows. Dynamic shared
// memory is poisoned and guarded; asynchronous copies arrive when they are waited for and not
// before; addresses that the hardware wants aligned are checked. Errors are lanes that diverge,
// barriers that not all threads reach, and packs in global memory that one block writes and another
// block of the launch touches.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#include "cuda/scalar.cuh"

#define DPAD_DEVICE inline
#define DPAD_SHARED static
#define DPAD_UNROLL
#define DPAD_NO_UNROLL
#define DPAD_UNROLL_BY(n)
#define DPAD_KERNEL(threads, blocks) inline void

namespace dpad::cuda {
namespace emulator {

enum class Order { kForward, kBackward, kShuffled };

struct Launch {
  int64_t grid_x = 1, grid_y = 1, grid_z = 1;
  int threads = 1;
  size_t shared_bytes = 0;
  Order order = Order::kForward;
};

// Runs `kernel` once for every thread of every block; std::runtime_error where a GPU would hang,
// fault or corrupt shared memory.
void run(const Launch& launch, const std::function<void()>& kernel);

struct Place {
  int thread;
  int64_t block_x, block_y, block_z;
  const Launch* launch;
};
const Place& place();
unsigned char* shared();

void wait_for_block();
bool any_in_block(bool value);
// Waits for the warp; `act` then runs once, with what every lane handed in.
void exchange(void* mine, void (*act)(void* const* lanes));
void queue_copy(void* to, const void* from, bool valid);
void commit_copies();
void wait_copies(size_t newest);
void expect_in_shared(const void* at, size_t bytes);
void expect_aligned(const void* at, size_t bytes);
// Blocks run at the same time: what one of them writes is no other's to read or write.
void note_access(const void* at, size_t bytes, bool writes);

}  // namespace emulator

inline int thread_index() { return emulator::place().thread; }
inline int thread_index_again() { return thread_index(); }
inline int64_t block_x() { return emulator::place().block_x; }
inline int64_t block_y() { return emulator::place().block_y; }
inline int64_t grid_x() { return emulator::place().launch->grid_x; }
inline int64_t grid_y() { return emulator::place().launch->grid_y; }
inline void* dynamic_shared() { return emulator::shared(); }
inline void block_sync() { emulator::wait_for_block(); }
inline bool any_in_block(bool value) { return emulator::any_in_block(value); }

template <class V>
V warp_xor(V value, int lanes) {
  struct Exchange {
    V in, out;
    int lanes;
  } mine{value, value, lanes};
  emulator::exchange(&mine, [](void* const* all) {
    for (int lane = 0; lane < 32; ++lane) {
      auto* to = static_cast<Exchange*>(all[lane]);
      to->out = static_cast<Exchange*>(all[lane ^ to->lanes])->in;
    }
  });
  return mine.out;
}

template <class V>
V warp_from(V value, int from) {
  struct Exchange {
    V in, out;
    int from;
  } mine{value, value, from & 31};
  emulator::exchange(&mine, [](void* const* all) {
    for (int lane = 0; lane < 32; ++lane) {
      auto* to = static_cast<Exchange*>(all[lane]);
      to->out = static_cast<Exchange*>(all[to->from])->in;
    }
  });
  return mine.out;
}

inline unsigned warp_votes(bool value) {
  struct Exchange {
    bool in;
    unsigned out;
  } mine{value, 0};
  emulator::exchange(&mine, [](void* const* all) {
    unsigned votes = 0;
    for (int lane = 0; lane < 32; ++lane) {
      votes |= unsigned{static_cast<Exchange*>(all[lane])->in} << lane;
    }
    for (int lane = 0; lane < 32; ++lane) static_cast<Exchange*>(all[lane])->out = votes;
  });
  return mine.out;
}
inline int highest_lane(unsigned votes) { return 31 - std::countl_zero(votes); }

template <class T, int N>
Pack<T, N> read_pack(const T* from) {
  emulator::expect_aligned(from, Pack<T, N>::kWord);
  emulator::note_access(from, sizeof(T) * N, false);
  Pack<T, N> pack;
  std::memcpy(&pack, from, sizeof pack);
  return pack;
}
template <class T, int N>
void write_pack(T* to, const Pack<T, N>& pack) {
  emulator::expect_aligned(to, Pack<T, N>::kWord);
  emulator::note_access(to, sizeof(T) * N, true);
  std::memcpy(to, &pack, sizeof pack);
}

inline float power_of_two(float x) { return std::exp2(x); }
inline void atomic_or(unsigned* word, unsigned bits) { *word |= bits; }

inline void copy_16(void* to, const void* from, bool valid) {
  emulator::queue_copy(to, from, valid);
}
inline void commit_copies() { emulator::commit_copies(); }
template <int N>
void wait_copies() {
  emulator::wait_copies(N);
}

namespace emulator {

struct Matrices {
  uint32_t* out;
  const uint16_t* row;
  bool transposed;
};

inline void load(uint32_t (&out)[4], const void* row, bool transposed) {
  expect_in_shared(row, 16);
  Matrices mine{out, static_cast<const uint16_t*>(row), transposed};
  exchange(&mine, [](void* const* lanes) {
    const auto element = [&](int matrix, int r, int c) {
      return uint32_t{static_cast<Matrices*>(lanes[8 * matrix + r])->row[c]};
    };
    for (int lane = 0; lane < 32; ++lane) {
      const auto* to = static_cast<Matrices*>(lanes[lane]);
      for (int i = 0; i < 4; ++i) {
        const int r = lane / 4, c = lane % 4 * 2;
        to->out[i] = to->transposed ? element(i, c, r) | element(i, c + 1, r) << 16
                                    : element(i, r, c) | element(i, r, c + 1) << 16;
      }
    }
  });
}

template <class T>
struct Product {
  float* c;
  const uint32_t* a;
  uint32_t b[2];

  static float part(uint32_t pair, int which) {
    return to_float(T{static_cast<uint16_t>(pair >> 16 * which)});
  }

  // Products are exact in float64; the sum is rounded once.
  static void act(void* const* lanes) {
    const auto at = [&](int lane) { return static_cast<Product*>(lanes[lane]); };
    for (int row = 0; row < 16; ++row) {
      for (int col = 0; col < 8; ++col) {
        double sum = 0;
        for (int k = 0; k < 16; ++k) {
          const int a_lane = row % 8 * 4 + k % 8 / 2, b_lane = col * 4 + k % 8 / 2;
          sum += double{part(at(a_lane)->a[row / 8 + k / 8 * 2], k % 2)} *
                 part(at(b_lane)->b[k / 8], k % 2);
        }
        float& c = at(row % 8 * 4 + col / 2)->c[row / 8 * 2 + col % 2];
        c = static_cast<float>(c + sum);
      }
    }
  }
};

}  // namespace emulator

inline void load_matrices(uint32_t (&out)[4], const void* row) { emulator::load(out, row, false); }
inline void load_transposed(uint32_t (&out)[4], const void* row) { emulator::load(out, row, true); }

template <class T>
void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, T) {
  emulator::Product<T> mine{c, a, {b0, b1}};
  emulator::exchange(&mine, emulator::Product<T>::act);
}

}  // namespace dpad::cuda
