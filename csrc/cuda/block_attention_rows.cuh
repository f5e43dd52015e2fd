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
  using Pair = Pack<float, 2>;
  static constexpr int kStep = 16;  // keys whose scores a warp holds in registers

  // Reads the queries; nothing has been seen yet.
  DPAD_DEVICE void begin(const BlockAttentionParams& p, const AttentionTask& task) {
    const WarpPlace place = warp_place(task.count, thread_index() / 32);
    first_key_ = place.first_key, last_key_ = place.last_key;
    const int64_t keys = p.n_keys[task.sequence];
    for (int half = 0; half < 2; ++half) {
      const int r = row(place, thread_index(), half);
      const bool there = r < task.count && place.part < place.parts;
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
    const int stage = number % kStages;
    const int k = stage * 2 * S::kTileBytes;
    const unsigned char* seen = shared + S::kMaskOffset + stage * kKeyTile;
    DPAD_NO_UNROLL
    for (int key = first_key_; key < last_key_; key += kStep) {
      float s[kStep / 8][4] = {};
      multiply_keys(s, shared, k + key * S::kRowBytes);
      online_softmax(s, number * kKeyTile + key, seen + key, scale);
      accumulate_pv(s, shared, k + S::kTileBytes + key * S::kRowBytes);
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

  // To and from rows of kPitch floats: out, peak, sum.
  DPAD_DEVICE void store(const WarpPlace& place, float* part) const {
    const int thread = thread_index_again();
    DPAD_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int column = 2 * (thread % 4);
      float* to = part + row(place, thread, half) * S::kPitch;
      DPAD_UNROLL
      for (int i = 0; i < S::kDim / 8; ++i) {
        write_pack(to + 8 * i + column, Pair{out_[i][2 * half], out_[i][2 * half + 1]});
      }
      if (column == 0) write_pack(to + S::kDim, Pair{peak_[half], sum_[half]});
    }
  }

  DPAD_DEVICE void add(const WarpPlace& place, const float* part) {
    const int thread = thread_index_again();
    DPAD_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int column = 2 * (thread % 4);
      const float* from = part + row(place, thread, half) * S::kPitch;
      const float peak = from[S::kDim], sum = from[S::kDim + 1];
      const float base = softmax_base(Largest()(peak_[half], peak));
      const float mine = power_of_two(peak_[half] - base), theirs = power_of_two(peak - base);
      peak_[half] = Largest()(peak_[half], peak);
      sum_[half] = sum_[half] * mine + sum * theirs;
      DPAD_UNROLL
      for (int i = 0; i < S::kDim / 8; ++i) {
        const Pair other = read_pack<float, 2>(from + 8 * i + column);
        for (int e = 0; e < 2; ++e) {
          float& x = out_[i][2 * half + e];
          x = x * mine + other.at[e] * theirs;
        }
      }
    }
  }

  // The finished rows; a row that saw no key has sum 0 and becomes zeros.
  DPAD_DEVICE void write(const BlockAttentionParams& p, const AttentionTask& task,
                         const WarpPlace& place) const {
    const int thread = thread_index_again();
    DPAD_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int r = row(place, thread, half), column = 2 * (thread % 4);
      if (r >= task.count) continue;
      const float inverse = sum_[half] == 0.0f ? 0.0f : 1.0f / sum_[half];
      T* to = static_cast<T*>(p.out) + (task.query_of(r) * p.num_heads + task.head_of(r)) * S::kDim;
      DPAD_UNROLL
      for (int i = 0; i < S::kDim / 8; ++i) {
        write_pack(to + 8 * i + column, Pack<T, 2>{from_float<T>(out_[i][2 * half] * inverse),
                                                   from_float<T>(out_[i][2 * half + 1] * inverse)});
      }
    }
  }

 private:
  DPAD_DEVICE static int lane() { return thread_index() % 32; }
  // Row of the tile: the warp's sixteen, then lane / 4 or lane / 4 + 8.
  DPAD_DEVICE static int row(const WarpPlace& place, int thread, int half) {
    return place.row + thread % 32 / 4 + 8 * half;
  }

  // s += Q K^T for the keys at `at` in shared memory. Matrices of a load: keys 0..7 and 8..15, of
  // each the dims 0..7 and 8..15. Chunks 2 d and 2 d + 1 lie where those of d = 0 lie, but for
  // bits of the offset that chunk_offset() flips.
  DPAD_DEVICE void multiply_keys(float (&s)[kStep / 8][4], const unsigned char* shared,
                                 int at) const {
    at += chunk_offset(S::kRowBytes, lane() / 16 * 8 + lane() % 8, lane() / 8 % 2);
    DPAD_UNROLL
    for (int d = 0; d < S::kDim / 16; ++d) {
      DPAD_UNROLL
      for (int j = 0; j < kStep / 8; j += 2) {
        uint32_t b[4];
        load_matrices(b, shared + (at ^ d << 5) + 8 * j * S::kRowBytes);
        multiply_add(s[j], q_[d], b[0], b[1], T{});
        multiply_add(s[j + 1], q_[d], b[2], b[3], T{});
      }
    }
  }

  // Scores become weights; peaks, sums and out move to the new peaks.
  DPAD_DEVICE void online_softmax(float (&s)[kStep / 8][4], int slot, const unsigned char* seen,
                                  float scale) {
    unsigned visible = 0;  // one bit per key of this lane
    DPAD_UNROLL
    for (int j = 0; j < kStep / 8; ++j) {
      const int key = 8 * j + 2 * (lane() % 4);
      visible |= (seen[key] | seen[key + 1] << 1) << 2 * j;
    }
    float shift[2];
    DPAD_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int limit = limit_[half] - slot - 2 * (lane() % 4);  // of the step's keys
      float peak = peak_[half];
      DPAD_UNROLL
      for (int j = 0; j < kStep / 8; ++j) {
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          const bool there = 8 * j + e % 2 < limit && (visible >> (2 * j + e % 2) & 1);
          s[j][e] = there ? s[j][e] * scale : -INFINITY;
          peak = Largest()(s[j][e], peak);
        }
      }
      peak = Largest()(warp_xor(peak, 1), peak);
      peak = Largest()(warp_xor(peak, 2), peak);
      const float base = softmax_base(peak);
      shift[half] = power_of_two(peak_[half] - base);
      peak_[half] = peak;
      float sum = sum_[half] * shift[half];
      DPAD_UNROLL
      for (int j = 0; j < kStep / 8; ++j) {
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          s[j][e] = power_of_two(s[j][e] - base);
          sum += s[j][e];
        }
      }
      sum_[half] = sum;
    }
    // After some keys most peaks stay where they are.
    if (warp_votes(shift[0] != 1.0f || shift[1] != 1.0f) == 0) return;
    DPAD_UNROLL
    for (int i = 0; i < S::kDim / 8; ++i) {
      for (int e = 0; e < 4; ++e) out_[i][e] *= shift[e / 2];
    }
  }

  // out += P V. Matrices of a load: keys 0..7 and 8..15 of the dims 0..7, then of the dims 8..15.
  DPAD_DEVICE void accumulate_pv(const float (&s)[kStep / 8][4], const unsigned char* shared,
                                 int at) {
    at += chunk_offset(S::kRowBytes, lane() % 16, lane() / 16);
    DPAD_UNROLL
    for (int j = 0; j < kStep / 16; ++j) {
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

  int first_key_, last_key_;  // of every key tile
  int limit_[2];
  float peak_[2], sum_[2];  // of the scaled scores, base 2; sums of this lane until finish()
  uint32_t q_[S::kDim / 16][4];
  float out_[S::kDim / 8][4];
};

}  // namespace dpad::cuda
