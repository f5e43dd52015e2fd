// x times a weight with the lanes along the rows of x, so that the weight is read as it lies. The
// sum of an element is taken in chains of kLinearChain products, which are added in order: it
// depends neither on the other rows nor on the blocking.
#pragma once

#include "cpu/linear_panel.h"
#include "cpu/row_products.h"

namespace dpad::cpu {
namespace {

// The block of the weight that comes next, fetched while the registers are busy.
struct NextBlock {
  static constexpr int64_t kLine = 16;
  const float* weight;  // never dereferenced
  int64_t stride;
  void operator()(int64_t i, int64_t d) const { __builtin_prefetch(weight + i * stride + d, 0, 2); }
};

struct Add {
  template <typename V>
  void operator()(float* to, V sum) const {
    V before;
    read(before, to);
    store(to, before + sum);
  }
};

class LinearPanel {
 public:
  LinearPanel(const LinearParams& p, int64_t first, int64_t rows, int64_t begin, int64_t end,
              float* scratch)
      : p_(p),
        rows_(rows),
        begin_(begin),
        end_(end),
        x_(p.x + first * p.x_stride),
        out_(p.out + first * p.out_features),
        packed_(scratch),
        sums_(scratch + kLinearRows * kLinearDepth) {}

  void run() {
    for (int64_t r = 0; r < rows_; r += kLanes) {
      float* const sums = sums_ + r / kLanes * kPanelSize;
      const int64_t used = (end_ - begin_ + kBlock) * kLanes;
      for (int64_t i = 0; i < used; i += kWidth) store(sums + i, zero());
    }
    for (int64_t k = 0; k < p_.in_features; k += kLinearDepth) {
      const int64_t left = p_.in_features - k;
      const int64_t depth = left < kLinearDepth ? left : kLinearDepth;
      pack(k, depth);
      multiply(k, depth);
    }
    write();
  }

 private:
  static constexpr int64_t kPanelSize = (kLinearPanel + 16) * kLanes;

  void pack(int64_t k, int64_t depth) {
    for (int64_t r = 0; r < rows_; r += kWidth) {
      const int64_t left = rows_ - r;
      const float* const from = x_ + r * p_.x_stride + k;
      pack_rows([&](int64_t i) { return from + i * p_.x_stride; }, left < kWidth ? left : kWidth,
                depth, packed_ + r / kLanes * kLinearDepth * kLanes + r % kLanes);
    }
  }

  void multiply(int64_t k, int64_t depth) {
    const int64_t stride = p_.weight_stride;
    for (int64_t n = begin_; n < end_; n += kBlock) {
      const float* const weight = p_.weight + n * stride + k;
      // After the last block: the first one of the next step.
      const float* const next =
          n + kBlock < end_ ? weight + kBlock * stride : p_.weight + begin_ * stride + k + depth;
      for (int64_t r = 0; r < rows_;) {
        const float* const rows = packed_ + r / kLanes * kLinearDepth * kLanes + r % kLanes;
        float* const sums = sums_ + r / kLanes * kPanelSize + (n - begin_) * kLanes + r % kLanes;
        const auto go = [&]<typename V, int64_t N>() {
          for (int64_t d = 0; d < depth; d += kLinearChain) {
            const int64_t chain = depth - d < kLinearChain ? depth - d : kLinearChain;
            multiply_rows<V, N>(rows + d * kLanes, weight + d, stride, end_ - n - 1, chain,
                                NextBlock{next + d, stride}, Add{}, sums);
          }
          r += N * static_cast<int64_t>(sizeof(V) / sizeof(float));
        };
        const int64_t left = rows_ - r;  // as few lanes as hold them, in wide pieces
        left > kWidth + kWidth / 2 ? go.template operator()<F, 2>()
        : left > kWidth / 2        ? go.template operator()<F, 1>()
                                   : go.template operator()<Half, 1>();
      }
    }
  }

  void write() {
    for (int64_t r = 0; r < rows_; r += kWidth) {
      const float* const from = sums_ + r / kLanes * kPanelSize + r % kLanes;
      const int64_t left = rows_ - r;
      const auto use = [&](int64_t i, int64_t n, F sum, int64_t count) {
        float* const to = out_ + (r + i) * p_.out_features + begin_ + n;
        const float* const bias = p_.bias == nullptr ? nullptr : p_.bias + begin_ + n;
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
  const int64_t rows_, begin_, end_;
  const float* x_;
  float* out_;
  float* packed_;  // [sub-tile][kLinearDepth][kLanes]
  float* sums_;    // [sub-tile][kLinearPanel + 16][kLanes]
};

}  // namespace

void DPAD_ISA(linear_panel)(const LinearParams& p, int64_t first, int64_t rows, int64_t begin,
                            int64_t end, float* scratch) {
  LinearPanel(p, first, rows, begin, end, scratch).run();
}

}  // namespace dpad::cpu
