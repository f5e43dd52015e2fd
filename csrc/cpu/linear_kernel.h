// x times a weight with the lanes along the rows of x, so that the weight is read as it lies. The
// sum of an element is taken in chains of kLinearChain products, which are added in order: it
// depends neither on the other rows nor on the blocking.
#pragma once

#include <type_traits>

#include "cpu/gated.h"
#include "cpu/linear_panel.h"
#include "cpu/row_products.h"

namespace dpad::cpu {
namespace {

// The block of the weight that comes next, fetched while the registers are busy.
template <typename T, int64_t kWords>
struct NextBlock {
  static constexpr int64_t kLine = 64 / sizeof(T) / kWords;
  const T* weight;  // never dereferenced
  int64_t stride;
  void operator()(int64_t i, int64_t d) const {
    __builtin_prefetch(weight + i * stride + d * kWords, 0, 2);
  }
};

struct Add {
  template <typename V>
  void operator()(float* to, V sum) const {
    V before;
    read(before, to);
    store(to, before + sum);
  }
};

#if defined(__AVX512BF16__)
// Lanes that hold two bfloat16 values of a row; sums of their products are float32.
struct Pairs {
  __m512 bits;
};
struct HalfPairs {
  __m256 bits;
};
inline void read(Pairs& x, const float* p) { x.bits = _mm512_loadu_ps(p); }
inline void read(HalfPairs& x, const float* p) { x.bits = _mm256_loadu_ps(p); }
inline void fill(Pairs& x, float value) { x.bits = _mm512_set1_ps(value); }
inline void fill(HalfPairs& x, float value) { x.bits = _mm256_set1_ps(value); }
inline void store(float* p, Pairs x) { _mm512_storeu_ps(p, x.bits); }
inline void store(float* p, HalfPairs x) { _mm256_storeu_ps(p, x.bits); }
inline Pairs operator+(Pairs a, Pairs b) { return {_mm512_add_ps(a.bits, b.bits)}; }
inline HalfPairs operator+(HalfPairs a, HalfPairs b) { return {_mm256_add_ps(a.bits, b.bits)}; }
inline Pairs fma(Pairs a, Pairs b, Pairs sum) {
  return {_mm512_dpbf16_ps(sum.bits, (__m512bh)a.bits, (__m512bh)b.bits)};
}
inline HalfPairs fma(HalfPairs a, HalfPairs b, HalfPairs sum) {
  return {_mm256_dpbf16_ps(sum.bits, (__m256bh)a.bits, (__m256bh)b.bits)};
}
template <typename T>
constexpr bool kPaired = sizeof(T) == 2 && !std::is_same_v<T, Float16>;
#else
using Pairs = F;
using HalfPairs = Half;
template <typename T>
constexpr bool kPaired = false;
#endif

template <typename T>
class LinearPanel {
 public:
  LinearPanel(const LinearParams& p, int64_t first, int64_t rows, int64_t begin, int64_t end,
              float* scratch)
      : p_(p),
        rows_(rows),
        depth_(depth_for(rows)),
        begin_(begin),
        end_(end),
        x_(static_cast<const T*>(p.x) + (p.row == nullptr ? first * p.x_stride : 0)),
        row_(p.row == nullptr ? nullptr : p.row + first),
        out_(static_cast<T*>(p.out) + first * p.out_features),
        packed_(scratch),
        sums_(packed_ + kLinearRows * kLinearDepth),
        wide_(sums_ + kLinearSums),
        gates_(wide_ + 16 * kLinearDepth) {}

  void run() {
    const Matrix weight{static_cast<const T*>(p_.weight), p_.weight_stride};
    const Matrix gate{static_cast<const T*>(p_.gate), p_.gate_stride};
    const bool gates = p_.gate != nullptr;
    const Matrix first = gates ? gate : weight;
    each_sum([&](int64_t i) {
      store(sums_ + i, zero());
      if (gates) store(gates_ + i, zero());
    });
    for (int64_t k = 0; k < p_.in_features; k += depth_) {
      const int64_t left = p_.in_features - k;
      const int64_t depth = left < depth_ ? left : depth_;
      pack(k, depth);
      if (gates) multiply(gate, k, depth, weight.at(begin_, k), gates_);
      multiply(weight, k, depth, first.at(begin_, k + depth), sums_);
    }
    if (gates) {
      each_sum([&](int64_t i) {
        store(sums_ + i, gated<T>(rounded(load(gates_ + i)), rounded(load(sums_ + i))));
      });
    }
    write();
  }

 private:
  static constexpr int64_t kPanelSize = (kLinearPanel + 16) * kLanes;
  static constexpr int64_t kWords = kPaired<T> ? 2 : 1;  // elements of a lane

  // Elements of the sum at a time. Few rows leave room in the caches for longer pieces of the
  // weight's rows, which memory hands over sooner than short ones.
  static int64_t depth_for(int64_t rows) {
    constexpr int64_t kLong = 4 * kLinearDepth;
    static_assert(kLong * kLanes <= kLinearRows * kLinearDepth, "as many as packed_ holds");
    constexpr bool as_it_lies = kPaired<T> || sizeof(T) == sizeof(float);
    return as_it_lies && rows <= kLanes / 2 ? kLong : kLinearDepth;
  }

  // A weight by its rows.
  struct Matrix {
    const T* data;
    int64_t stride;
    const T* at(int64_t n, int64_t k) const { return data + n * stride + k; }
  };

  static F rounded(F x) { return round_to(static_cast<const T*>(nullptr), x); }

  // use(i) for every vector of sums that are taken.
  template <typename Use>
  void each_sum(const Use& use) const {
    const int64_t used = (end_ - begin_ + kBlock) * kLanes;
    for (int64_t r = 0; r < rows_; r += kLanes) {
      const int64_t tile = r / kLanes * kPanelSize;
      for (int64_t i = 0; i < used; i += kWidth) use(tile + i);
    }
  }

  // A row as it is packed: by elements, or by pairs.
  static auto as_words(const T* row) {
    if constexpr (kPaired<T>) {
      return reinterpret_cast<const float*>(row);
    } else {
      return row;
    }
  }

  void pack(int64_t k, int64_t depth) {
    for (int64_t r = 0; r < rows_; r += kWidth) {
      const int64_t left = rows_ - r;
      float* const to = packed_ + r / kLanes * depth_ * kLanes + r % kLanes;
      const auto row = [&](int64_t i) {
        const int64_t place = row_ == nullptr ? r + i : row_[r + i];
        return as_words(x_ + place * p_.x_stride + k);
      };
      pack_rows(row, left < kWidth ? left : kWidth, depth / kWords, to);
    }
  }

  struct Block {
    const float* weight;
    int64_t stride;
  };

  // `count` rows of the weight as float32: as they lie, or widened.
  Block block(const T* from, int64_t stride, int64_t count, int64_t depth) {
    if constexpr (kPaired<T> || sizeof(T) == sizeof(float)) {
      return {as_words(from), stride / kWords};
    } else {
      for (int64_t i = 0; i < count; ++i) {
        widen(from + i * stride, depth, wide_ + i * kLinearDepth);
      }
      return {wide_, kLinearDepth};
    }
  }

  // Adds the products of `depth` elements from k on to `to`; `after`: the block that comes next.
  void multiply(const Matrix& matrix, int64_t k, int64_t depth, const T* after, float* to) {
    using Next = NextBlock<T, kWords>;
    constexpr int64_t kChain = kLinearChain / kWords;
    const int64_t words = depth / kWords;
    for (int64_t n = begin_; n < end_; n += kBlock) {
      const T* const from = matrix.at(n, k);
      const int64_t count = end_ - n < kBlock ? end_ - n : kBlock;
      const auto [weight, stride] = block(from, matrix.stride, count, depth);
      const T* const next = n + kBlock < end_ ? from + kBlock * matrix.stride : after;
      for (int64_t r = 0; r < rows_;) {
        const float* const rows = packed_ + r / kLanes * depth_ * kLanes + r % kLanes;
        float* const sums = to + r / kLanes * kPanelSize + (n - begin_) * kLanes + r % kLanes;
        const auto go = [&]<typename V, int64_t N>() {
          for (int64_t d = 0; d < words; d += kChain) {
            const int64_t chain = words - d < kChain ? words - d : kChain;
            const Next ahead{next + d * kWords, matrix.stride};
            multiply_rows<V, N>(rows + d * kLanes, weight + d, stride, end_ - n - 1, chain, ahead,
                                Add{}, sums);
          }
          r += N * static_cast<int64_t>(sizeof(V) / sizeof(float));
        };
        const int64_t left = rows_ - r;  // as few lanes as hold them, in wide pieces
        const auto choose = [&]<typename Wide, typename Narrow>() {
          left > kWidth + kWidth / 2 ? go.template operator()<Wide, 2>()
          : left > kWidth / 2        ? go.template operator()<Wide, 1>()
                                     : go.template operator()<Narrow, 1>();
        };
        if constexpr (kPaired<T>) {
          choose.template operator()<Pairs, HalfPairs>();
        } else {
          choose.template operator()<F, Half>();
        }
      }
    }
  }

  void write() {
    for (int64_t r = 0; r < rows_; r += kWidth) {
      const float* const from = sums_ + r / kLanes * kPanelSize + r % kLanes;
      const int64_t left = rows_ - r;
      const auto use = [&](int64_t i, int64_t n, F sum, int64_t count) {
        T* const to = out_ + (r + i) * p_.out_features + begin_ + n;
        const T* bias = static_cast<const T*>(p_.bias);
        if (bias != nullptr) bias += begin_ + n;
        if (count == kWidth) {
          store(to, bias == nullptr ? sum : sum + load(bias));
        } else {
          store_part(to, bias == nullptr ? sum : sum + load_part(bias, count), count);
        }
      };
      unpack_rows(from, left < kWidth ? left : kWidth, end_ - begin_, use);
    }
  }

  const LinearParams& p_;
  const int64_t rows_, depth_, begin_, end_;
  const T* x_;
  const int64_t* row_;
  T* out_;
  float* packed_;  // [sub-tile][depth_][kLanes]
  float* sums_;    // [sub-tile][kLinearPanel + 16][kLanes]
  float* wide_;    // [kBlock][kLinearDepth], 16-bit elements widened
  float* gates_;   // as sums_, where there is a gate
};

}  // namespace

void DPAD_ISA(linear_panel)(const LinearParams& p, int64_t first, int64_t rows, int64_t begin,
                            int64_t end, float* scratch) {
  with_type(p.dtype,
            [&]<typename T>() { LinearPanel<T>(p, first, rows, begin, end, scratch).run(); });
}

}  // namespace dpad::cpu
