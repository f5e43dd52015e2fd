// Rows of x as 8-bit numbers with a scale each, times a weight of such numbers that is read as it
// lies. Sums are exact integers, so an output depends neither on other rows nor on the blocking,
// nor on the instruction set.
#pragma once

#include "cpu/int8_linear_panel.h"
#include "cpu/int8_words.h"
#include "cpu/row_products.h"

namespace dpad::cpu {
namespace {

static_assert(kInt8Rows % kLanes == 0);

inline int64_t words_of(const Int8LinearParams& p) { return (p.in_features + kGroup - 1) / kGroup; }

// The row's largest magnitude; NaN where it holds a value that is not finite.
template <typename T, typename Row>
inline float magnitude(const Row& row, int64_t count) {
  F most = zero(), odd = zero();
  for (int64_t i = 0; i < count; i += kWidth) {
    const F x = row(i);
    most = max(most, max(x, zero() - x));
    odd = odd + x * zero();
  }
  float lanes[kWidth], sum = 0.0f;
  store(lanes, odd);
  for (const float lane : lanes) sum += lane;
  return sum == 0.0f ? largest(most) : sum;
}

// One row of x: its elements, and zeros up to whole words.
template <typename T>
inline void quantize_row(const Int8LinearParams& p, int64_t r, Element* to) {
  const T* const x = static_cast<const T*>(p.x) + r * p.x_stride;
  const auto part = [&](int64_t i) {
    const int64_t left = p.in_features - i;
    const F value = left < kWidth ? load_part(x + i, left) : load(x + i);
    if (p.smoothing == nullptr) return value;
    return value * (left < kWidth ? load_part(p.smoothing + i, left) : load(p.smoothing + i));
  };
  const float most = magnitude<T>(part, p.in_features);
  const bool finite = most >= kInt8Least;  // false for NaN
  p.row_scale[r] = finite ? most / 127.0f : most != most ? most : 0.0f;
  const F factor = set1(finite ? 127.0f / most : 0.0f);
  int32_t sum = 0;
  int64_t i = 0;
  for (; finite && i < p.in_features; i += kWidth) {
    uint32_t bits[kWidth];  // adding kRound leaves the integer in the low bits
    const F rounded = part(i) * factor + set1(kRound);
    __builtin_memcpy(bits, &rounded, sizeof rounded);
    for (int64_t j = 0; j < kWidth; ++j) {
      to[i + j] = static_cast<Element>(bits[j]);
      sum += to[i + j];
    }
  }
  for (; i < words_of(p) * kGroup; ++i) to[i] = 0;
  p.row_sum[r] = sum;
}

template <typename T>
inline void quantize_tile(const Int8LinearParams& p, int64_t tile, float* scratch) {
  const int64_t words = words_of(p), stride = words + 64 / sizeof(Word);  // room for whole vectors
  const int64_t left = p.rows - tile * kLanes;
  for (int64_t r = 0; r < kLanes; r += kWidth) {
    const int64_t rows = left - r < kWidth ? (left < r ? 0 : left - r) : kWidth;
    for (int64_t i = 0; i < rows; ++i) {
      quantize_row<T>(p, tile * kLanes + r + i, reinterpret_cast<Element*>(scratch + i * stride));
    }
    float* const to = reinterpret_cast<float*>(p.packed) + tile * words * kLanes + r;
    pack_rows([&](int64_t i) { return scratch + i * stride; }, rows, words, to);
  }
}

// The block of the weight that comes next, fetched while the registers are busy.
struct NextInt8Block {
  static constexpr int64_t kLine = 64 / kGroup;  // words of a cache line of the weight
  const int8_t* weight;                          // never dereferenced
  int64_t stride;
  void operator()(int64_t i, int64_t d) const {
    __builtin_prefetch(weight + i * stride + d * kGroup, 0, 2);
  }
};

struct AddWords {
  template <typename V>
  void operator()(Word* to, V sum) const {
    V before;
    read(before, to);
    store(to, add(before, sum));
  }
};

class Int8Panel {
 public:
  Int8Panel(const Int8LinearParams& p, int64_t first, int64_t rows, int64_t begin, int64_t end,
            float* scratch)
      : p_(p),
        first_(first),
        rows_(rows),
        begin_(begin),
        end_(end),
        packed_(p.packed + first * words_of(p)),
        sums_(reinterpret_cast<Word*>(scratch)),
        block_(sums_ + kInt8Rows * (kInt8Panel + 16)) {}

  template <typename T>
  void run() {
    for (int64_t r = 0; r < rows_; r += kLanes) {
      float* const sums = reinterpret_cast<float*>(sums_) + r / kLanes * kPanelSize;
      const int64_t used = (end_ - begin_ + kBlock) * kLanes;
      for (int64_t i = 0; i < used; i += kWidth) store(sums + i, zero());
    }
    for (int64_t w = 0; w < words_of(p_); w += kInt8Depth) {
      const int64_t left = words_of(p_) - w;
      multiply(w, left < kInt8Depth ? left : kInt8Depth);
    }
    write<T>();
  }

 private:
  static constexpr int64_t kPanelSize = (kInt8Panel + 16) * kLanes;

  void multiply(int64_t w, int64_t depth) {
    const int64_t k = w * kGroup, left = p_.in_features - k;
    const int64_t count = left < depth * kGroup ? left : depth * kGroup;
    for (int64_t n = begin_; n < end_; n += kBlock) {
      const int8_t* const from = p_.weight + n * p_.weight_stride + k;
      for (int64_t i = 0; i < kBlock && n + i < end_; ++i) {
        widen_weight(from + i * p_.weight_stride, count, block_ + i * kInt8Depth);
      }
      // After the last block: the first one of the next step.
      const int8_t* const next = n + kBlock < end_
                                     ? from + kBlock * p_.weight_stride
                                     : p_.weight + begin_ * p_.weight_stride + k + count;
      for (int64_t r = 0; r < rows_;) {
        const Word* const rows =
            packed_ + r / kLanes * kLanes * words_of(p_) + w * kLanes + r % kLanes;
        Word* const sums = sums_ + r / kLanes * kPanelSize + (n - begin_) * kLanes + r % kLanes;
        const auto go = [&]<typename V, int64_t N>() {
          multiply_rows<V, N>(rows, block_, kInt8Depth, end_ - n - 1, depth,
                              NextInt8Block{next, p_.weight_stride}, AddWords{}, sums);
          r += N * static_cast<int64_t>(sizeof(V) / sizeof(Word));
        };
        const int64_t rest = rows_ - r;  // as few lanes as hold them, in wide pieces
        rest > kWidth + kWidth / 2 ? go.template operator()<Words, 2>()
        : rest > kWidth / 2        ? go.template operator()<Words, 1>()
                                   : go.template operator()<HalfWords, 1>();
      }
    }
  }

  // (sum x's scale) weight's scale + bias, in place of the sums; each rounded to float32.
  template <typename T>
  void write() {
    for (int64_t r = 0; r < rows_; r += kWidth) {
      Word* const sums = sums_ + r / kLanes * kPanelSize + r % kLanes;
      float* const values = reinterpret_cast<float*>(sums);
      const int64_t left = rows_ - r, rows = left < kWidth ? left : kWidth;
      Word less[kWidth] = {};
      for (int64_t i = 0; i < rows; ++i) less[i] = -kOffset * p_.row_sum[first_ + r + i];
      const F scale = load_part(p_.row_scale + first_ + r, rows);
      for (int64_t n = 0; n < end_ - begin_; ++n) {
        Words sum, offset;
        read(sum, sums + n * kLanes);
        read(offset, less);
        store(values + n * kLanes, as_float(add(sum, offset)) * scale);
      }
      const auto use = [&](int64_t i, int64_t n, F value, int64_t count) {
        T* const to = static_cast<T*>(p_.out) + (first_ + r + i) * p_.out_features + begin_ + n;
        const float* const by = p_.scale + begin_ + n;
        const T* bias = static_cast<const T*>(p_.bias);
        if (bias != nullptr) bias += begin_ + n;
        if (count == kWidth) {
          value = value * load(by);
          store(to, bias == nullptr ? value : value + load(bias));
        } else {
          value = value * load_part(by, count);
          store_part(to, bias == nullptr ? value : value + load_part(bias, count), count);
        }
      };
      unpack_rows(values, rows, end_ - begin_, use);
    }
  }

  const Int8LinearParams& p_;
  const int64_t first_, rows_, begin_, end_;
  const Word* packed_;
  Word* sums_;   // [tile][kInt8Panel + 16][kLanes]
  Word* block_;  // [kBlock][kInt8Depth], as fma() takes them
};

}  // namespace

Int8Layout DPAD_ISA(int8_layout)() { return {kLanes, kGroup}; }

void DPAD_ISA(int8_tile)(const Int8LinearParams& p, int64_t tile, float* scratch) {
  with_type(p.dtype, [&]<typename T>() { quantize_tile<T>(p, tile, scratch); });
}

void DPAD_ISA(int8_panel)(const Int8LinearParams& p, int64_t first, int64_t rows, int64_t begin,
                          int64_t end, float* scratch) {
  with_type(p.dtype,
            [&]<typename T>() { Int8Panel(p, first, rows, begin, end, scratch).run<T>(); });
}

}  // namespace dpad::cpu
