// The arithmetic of block_attention on tensor cores: one warp's rows against one key tile.
//
//   scores [rows][keys] = Q K^T    m16n8k16: a = Q, from registers;     b = K as it lies
//   out    [rows][dims] = P V      m16n8k16: a = P, the scores' registers; b = V, read transposed
#pragma once

#include "cuda/block_attention_tile.cuh"

namespace dpad::cuda {

// The rows of one warp, in the register layout of m16n8k16: this lane holds of the rows
// lane / 4 and lane / 4 + 8 the columns 2 (lane % 4) and 2 (lane % 4) + 1 of every eight.
template <class S>
class AttentionRows {
 public:
  using T = typename S::T;

  // Reads the queries; nothing has been seen yet.
  DPAD_DEVICE void begin(const BlockAttentionParams& p, const AttentionTask& task) {
    idle_ = thread_index() / 32 % S::kRowWarps * 16 >= task.tile.count;
    for (int half = 0; half < 2; ++half) {
      const int r = row(thread_index(), half);
      const bool there = r < task.tile.count;
      const int64_t keys = p.n_keys[task.tile.sequence];
      limit_[half] = there ? static_cast<int>(limit_of(p, task.query_of(r), keys)) : 0;
      peak_[half] = -INFINITY, sum_[half] = 0;
      const T* q = static_cast<const T*>(p.q);
      if (there) q += task.query_of(r) * p.q_row_stride + task.head_of(r) * p.q_head_stride;
      DPAD_UNROLL
      for (int i = 0; i < S::kDim / 8; ++i) {
        const int at = 8 * i + 2 * (lane() % 4);
        q_[i / 2][half + i % 2 * 2] =
            there ? *reinterpret_cast<const uint32_t*>(q + at) : uint32_t{0};
      }
    }
    DPAD_UNROLL
    for (int i = 0; i < S::kDim / 8; ++i) {
      for (int e = 0; e < 4; ++e) out_[i][e] = 0;
    }
  }

  // One key tile, which lies in shared memory.
  DPAD_DEVICE void step(int number, const unsigned char* shared, float scale) {
    if (idle_) return;
    const int stage = number % kStages;
    const int k = stage * 2 * S::kTileBytes;
    const unsigned char* seen = shared + S::kMaskOffset + stage * kKeyTile;
    DPAD_NO_UNROLL
    for (int key = key_part() * S::kKeys; key < (key_part() + 1) * S::kKeys; key += S::kStep) {
      float s[S::kStep / 8][4] = {};
      multiply_keys(s, shared, k + key * S::kRowBytes);
      soften(s, number * kKeyTile + key, seen + key, scale);
      blend_values(s, shared, k + S::kTileBytes + key * S::kRowBytes);
    }
  }

  // Sums of the whole row, after the last step.
  DPAD_DEVICE void finish() {
    DPAD_UNROLL
    for (int half = 0; half < 2; ++half) {
      sum_[half] += warp_xor(sum_[half], 1);
      sum_[half] += warp_xor(sum_[half], 2);
    }
  }

  DPAD_DEVICE bool leads() const { return key_part() == 0; }
  DPAD_DEVICE static int key_part() {
    return S::kKeyWarps == 1 ? 0 : thread_index() / 32 / S::kRowWarps;
  }

  // To and from the float32 layout of a part: out [rows][dims], peaks [rows], sums [rows].
  DPAD_DEVICE void store(float* part) const {
    const int thread = thread_index_again();
    DPAD_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int r = row(thread, half), column = 2 * (thread % 4);
      float* to = part + r * S::kDim + column;
      DPAD_UNROLL
      for (int i = 0; i < S::kDim / 8; ++i) {
        to[8 * i] = out_[i][2 * half], to[8 * i + 1] = out_[i][2 * half + 1];
      }
      if (column != 0) continue;
      part[S::kRows * S::kDim + r] = peak_[half];
      part[S::kRows * (S::kDim + 1) + r] = sum_[half];
    }
  }

  DPAD_DEVICE void add(const float* part) {
    const int thread = thread_index_again();
    DPAD_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int r = row(thread, half), column = 2 * (thread % 4);
      const float peak = part[S::kRows * S::kDim + r];
      const float sum = part[S::kRows * (S::kDim + 1) + r];
      const float* from = part + r * S::kDim + column;
      const float base = softmax_base(Largest()(peak_[half], peak));
      const float mine = exp2f(peak_[half] - base), theirs = exp2f(peak - base);
      peak_[half] = Largest()(peak_[half], peak);
      sum_[half] = sum_[half] * mine + sum * theirs;
      DPAD_UNROLL
      for (int i = 0; i < S::kDim / 8; ++i) {
        for (int e = 0; e < 2; ++e) {
          float& x = out_[i][2 * half + e];
          x = x * mine + from[8 * i + e] * theirs;
        }
      }
    }
  }

  // The finished rows; a row that saw no key has sum 0 and becomes zeros.
  DPAD_DEVICE void write(const BlockAttentionParams& p, const AttentionTask& task) const {
    const int thread = thread_index_again();
    DPAD_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int r = row(thread, half), column = 2 * (thread % 4);
      if (r >= task.tile.count) continue;
      const float inverse = sum_[half] == 0.0f ? 0.0f : 1.0f / sum_[half];
      T* to = static_cast<T*>(p.out) + (task.query_of(r) * p.num_heads + task.head_of(r)) * S::kDim;
      DPAD_UNROLL
      for (int i = 0; i < S::kDim / 8; ++i) {
        *reinterpret_cast<uint32_t*>(to + 8 * i + column) =
            pair_of<T>(out_[i][2 * half] * inverse, out_[i][2 * half + 1] * inverse);
      }
    }
  }

 private:
  DPAD_DEVICE static int lane() { return thread_index() % 32; }
  // Row of the tile: the warp's sixteen, then lane / 4 or lane / 4 + 8.
  DPAD_DEVICE static int row(int thread, int half) {
    return thread / 32 % S::kRowWarps * 16 + thread % 32 / 4 + 8 * half;
  }

  // s += Q K^T for the keys at `at` in shared memory. Matrices of a load: keys 0..7 and 8..15, of
  // each the dims 0..7 and 8..15. Chunks 2 d and 2 d + 1 lie where those of d = 0 lie, but for
  // bits of the offset that chunk_offset() flips.
  DPAD_DEVICE void multiply_keys(float (&s)[S::kStep / 8][4], const unsigned char* shared,
                                 int at) const {
    at += chunk_offset(S::kRowBytes, lane() / 16 * 8 + lane() % 8, lane() / 8 % 2);
    DPAD_UNROLL
    for (int d = 0; d < S::kDim / 16; ++d) {
      DPAD_UNROLL
      for (int j = 0; j < S::kStep / 8; j += 2) {
        uint32_t b[4];
        load_matrices(b, shared + (at ^ d << 5) + 8 * j * S::kRowBytes);
        multiply_add(s[j], q_[d], b[0], b[1], T{});
        multiply_add(s[j + 1], q_[d], b[2], b[3], T{});
      }
    }
  }

  // Scores become weights; peaks, sums and out move to the new peaks.
  DPAD_DEVICE void soften(float (&s)[S::kStep / 8][4], int slot, const unsigned char* seen,
                          float scale) {
    unsigned visible = 0;  // one bit per key of this lane
    DPAD_UNROLL
    for (int j = 0; j < S::kStep / 8; ++j) {
      const int key = 8 * j + 2 * (lane() % 4);
      visible |= (seen[key] | seen[key + 1] << 1) << 2 * j;
    }
    DPAD_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int limit = limit_[half] - slot - 2 * (lane() % 4);  // of the step's keys
      float peak = peak_[half];
      DPAD_UNROLL
      for (int j = 0; j < S::kStep / 8; ++j) {
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          const bool there = 8 * j + e % 2 < limit && (visible >> (2 * j + e % 2) & 1);
          s[j][e] = there ? s[j][e] * scale : -INFINITY;
          peak = Largest()(s[j][e], peak);
        }
      }
      peak = Largest()(warp_xor(peak, 1), peak);
      peak = Largest()(warp_xor(peak, 2), peak);
      const float base = softmax_base(peak), shift = exp2f(peak_[half] - base);
      peak_[half] = peak;
      float sum = sum_[half] * shift;
      DPAD_UNROLL
      for (int j = 0; j < S::kStep / 8; ++j) {
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          s[j][e] = exp2f(s[j][e] - base);
          sum += s[j][e];
        }
      }
      sum_[half] = sum;
      DPAD_UNROLL
      for (int i = 0; i < S::kDim / 8; ++i)
        out_[i][2 * half] *= shift, out_[i][2 * half + 1] *= shift;
    }
  }

  // out += P V. Matrices of a load: keys 0..7 and 8..15 of the dims 0..7, then of the dims 8..15.
  DPAD_DEVICE void blend_values(const float (&s)[S::kStep / 8][4], const unsigned char* shared,
                                int at) {
    at += chunk_offset(S::kRowBytes, lane() % 16, lane() / 16);
    DPAD_UNROLL
    for (int j = 0; j < S::kStep / 16; ++j) {
      const auto& low = s[2 * j];
      const auto& high = s[2 * j + 1];
      const uint32_t a[4] = {pair_of<T>(low[0], low[1]), pair_of<T>(low[2], low[3]),
                             pair_of<T>(high[0], high[1]), pair_of<T>(high[2], high[3])};
      DPAD_UNROLL
      for (int d = 0; d < S::kDim / 16; ++d) {
        uint32_t b[4];
        load_transposed(b, shared + (at ^ d << 5) + 16 * j * S::kRowBytes);
        multiply_add(out_[2 * d], a, b[0], b[1], T{});
        multiply_add(out_[2 * d + 1], a, b[2], b[3], T{});
      }
    }
  }

  bool idle_;  // no row of this warp exists
  int limit_[2];
  float peak_[2], sum_[2];  // of the scaled scores, base 2; sums of this lane until finish()
  uint32_t q_[S::kDim / 16][4];
  float out_[S::kDim / 8][4];
};

}  // namespace dpad::cuda
