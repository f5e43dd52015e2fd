#include "cpu/combine.h"

#include <algorithm>
#include <utility>

#include "core/half.h"
#include "core/rows.h"
#include "cpu/combine_row.h"

namespace dpad::cpu {
namespace {

using Term = std::pair<int64_t, float>;  // place and weight of a pair

}  // namespace

Error combine_places(const CombineParams& p) {
  const int64_t pairs = p.rows * p.top_k;
  std::fill_n(p.place, pairs, -1);
  for (int64_t i = 0; i < pairs; ++i) {
    const int64_t pair = p.order[i];
    if (!inside(pair, pairs)) {
      return {"order", "a pair of a row and an expert", i, static_cast<double>(pair)};
    }
    if (p.place[pair] >= 0) return {"order", "every pair once", i, static_cast<double>(pair)};
    p.place[pair] = i;
  }
  return {};
}

int64_t combine_grain(const CombineParams& p) {
  return 1 + (int64_t{1} << 15) / std::max<int64_t>(p.width * p.top_k, 1);
}

int64_t combine_scratch(const CombineParams& p) {
  return p.top_k * static_cast<int64_t>(sizeof(Term) + sizeof(int64_t) + sizeof(float));
}

void combine(const CombineParams& p, int64_t begin, int64_t end, void* scratch) {
  const auto row_kernel = DPAD_PICK(combine_row);
  Term* const terms = static_cast<Term*>(scratch);
  const bool round_weights = !p.full_precision && p.round_weights;
  int64_t* const place = reinterpret_cast<int64_t*>(terms + p.top_k);
  float* const weight = reinterpret_cast<float*>(place + p.top_k);
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t k = 0; k < p.top_k; ++k) {
      const float w = p.weight[row * p.top_k + k];
      terms[k] = {p.place[row * p.top_k + k], round_weights ? half::rounded(w, p.dtype) : w};
    }
    if (!p.full_precision) {
      std::sort(terms, terms + p.top_k,
                [](const auto& a, const auto& b) { return a.first < b.first; });
    }
    for (int64_t k = 0; k < p.top_k; ++k) place[k] = terms[k].first, weight[k] = terms[k].second;
    row_kernel(p, row, place, weight);
  }
}

}  // namespace dpad::cpu
