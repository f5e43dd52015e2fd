#include "cpu/route.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <span>

#include "core/half.h"
#include "core/route.h"

namespace dpad::cpu {
namespace {

template <class T>
void widen_row(const RouteParams& p, int64_t row, float* out) {
  const T* logits = static_cast<const T*>(p.logits) + row * p.logits_stride;
  for (int64_t e = 0; e < p.experts; ++e) out[e] = half::to_float(logits[e]);
}

class Router {
 public:
  // In memory of route_scratch() bytes.
  Router(const RouteParams& p, void* memory)
      : p_(p),
        ranks_(static_cast<Rank*>(memory), p.experts),
        groups_(ranks_.data() + p.experts, p.groups),
        scores_(reinterpret_cast<float*>(groups_.data() + p.groups), p.experts),
        keys_(reinterpret_cast<int32_t*>(scores_.data() + p.experts), p.experts) {}

  void run(int64_t row) {
    read(row);
    p_.score == Score::kSoftmax ? softmax() : sigmoid();
    for (int64_t e = 0; e < p_.experts; ++e) {
      keys_[e] = key_of(p_.bias == nullptr ? scores_[e] : scores_[e] + p_.bias[e]);
    }
    if (p_.groups > 1) keep_best_groups();
    choose(row);
  }

 private:
  void read(int64_t row) {
    switch (p_.dtype) {
      case DType::kFloat32:
        return widen_row<float>(p_, row, scores_.data());
      case DType::kBFloat16:
        return widen_row<half::BFloat16>(p_, row, scores_.data());
      case DType::kFloat16:
        return widen_row<half::Float16>(p_, row, scores_.data());
    }
  }

  void softmax() {
    float largest = -INFINITY;
    for (const float x : scores_) largest = x > largest ? x : largest;
    double sum = 0;
    for (float& x : scores_) {
      x = std::exp(x - largest);
      sum += x;
    }
    for (float& x : scores_) x /= static_cast<float>(sum);
  }

  void sigmoid() {
    for (float& x : scores_) x = 1 / (1 + std::exp(-x));
  }

  // The experts of the other groups get a key that is never chosen.
  void keep_best_groups() {
    const int64_t size = p_.experts / p_.groups;
    for (int64_t g = 0; g < p_.groups; ++g) {
      BestTwo best;
      for (int64_t e = g * size; e < (g + 1) * size; ++e) best.add(keys_[e]);
      groups_[g] = rank_of(best.key(), g);
    }
    std::partial_sort(groups_.begin(), groups_.begin() + p_.top_groups, groups_.end(),
                      std::greater<>());
    for (auto g = groups_.begin() + p_.top_groups; g != groups_.end(); ++g) {
      std::fill_n(keys_.begin() + number_of(*g) * size, size, kNeverKey);
    }
  }

  void choose(int64_t row) {
    for (int64_t e = 0; e < p_.experts; ++e) ranks_[e] = rank_of(keys_[e], e);
    std::partial_sort(ranks_.begin(), ranks_.begin() + p_.top_k, ranks_.end(), std::greater<>());
    int64_t* expert = p_.expert + row * p_.top_k;
    float* weight = p_.weight + row * p_.top_k;
    float sum = 0;
    for (int64_t k = 0; k < p_.top_k; ++k) {
      expert[k] = number_of(ranks_[k]);
      weight[k] = scores_[expert[k]];
      sum += weight[k];
    }
    for (int64_t k = 0; k < p_.top_k; ++k) {
      if (p_.normalise) weight[k] /= sum + kLeastWeightSum;
      weight[k] *= p_.scaling;
    }
  }

  const RouteParams& p_;
  std::span<Rank> ranks_, groups_;
  std::span<float> scores_;
  std::span<int32_t> keys_;  // of the scores that choose
};

}  // namespace

int64_t route_grain(const RouteParams& p) {
  return 1 + (int64_t{1} << 12) / std::max<int64_t>(p.experts, 1);
}

int64_t route_scratch(const RouteParams& p) {
  const auto each = static_cast<int64_t>(sizeof(Rank) + sizeof(float) + sizeof(int32_t));
  return p.experts * each + p.groups * static_cast<int64_t>(sizeof(Rank));
}

void route(const RouteParams& p, int64_t begin, int64_t end, void* scratch) {
  Router router(p, scratch);
  for (int64_t row = begin; row < end; ++row) router.run(row);
}

int64_t route_order_scratch(const RouteParams& p) {
  return (p.experts + 1) * static_cast<int64_t>(sizeof(int32_t));
}

void route_order(const RouteParams& p, void* scratch) {
  const int64_t pairs = p.rows * p.top_k;
  int32_t* const next = static_cast<int32_t*>(scratch);  // where each expert's next pair goes
  std::fill_n(next, p.experts + 1, 0);
  for (int64_t i = 0; i < pairs; ++i) ++next[p.expert[i] + 1];
  for (int64_t e = 0; e < p.experts; ++e) {
    next[e + 1] += next[e];
    p.offsets[e] = next[e + 1];
  }
  for (int64_t i = 0; i < pairs; ++i) p.order[next[p.expert[i]]++] = i;
}

}  // namespace dpad::cpu
