// A warp takes a row and chooses its experts; then a block takes an expert and finds its pairs. No
// step depends on the order in which threads run.
#pragma once

#include "core/route.h"
#include "cuda/block.cuh"
#include "params.h"

namespace dpad::cuda {

inline constexpr int kRouteRows = kThreads / 32;  // of a block

// What a warp keeps of its row in scratch memory: words of 4 bytes.
struct RouteRow {
  float* score;    // [experts]
  int32_t* key;    // [experts], of the scores that choose
  int32_t* group;  // [groups], keys

  DPAD_HOST_DEVICE static int64_t words(const RouteParams& p) { return 2 * p.experts + p.groups; }

  DPAD_DEVICE RouteRow(const RouteParams& p, int32_t* scratch, int64_t row)
      : score(reinterpret_cast<float*>(scratch + row * words(p))),
        key(scratch + row * words(p) + p.experts),
        group(key + p.experts) {}
};

// Each lane takes every 32nd expert. Indices of 64 bits would not fit into the registers, and with
// so few experts, groups and top_k none of 32 overflows.
static_assert(kMostExperts - 1 + 32 <= INT32_MAX);

template <class T>
DPAD_DEVICE void score_row(const RouteParams& p, int64_t row, const RouteRow& r) {
  const T* logits = static_cast<const T*>(p.logits) + row * p.logits_stride;
  const int lane = thread_index() % 32, experts = static_cast<int>(p.experts);
  const bool softmax = p.score == Score::kSoftmax;
  float largest = -INFINITY;
  for (int e = lane; e < experts; e += 32) {
    const float x = to_float(logits[e]);
    r.score[e] = x;
    largest = x > largest ? x : largest;
  }
  largest = warp_reduce(largest, Largest());
  double sum = 0;
  for (int e = lane; softmax && e < experts; e += 32) {
    r.score[e] = expf(r.score[e] - largest);
    sum += r.score[e];
  }
  const auto all = static_cast<float>(warp_reduce(sum, Sum()));
  for (int e = lane; e < experts; e += 32) {
    const float x = r.score[e];
    const float score = softmax ? x / all : 1.0f / add_rn(1.0f, expf(-x));
    r.score[e] = score;
    r.key[e] = key_of(p.bias == nullptr ? score : add_rn(score, p.bias[e]));
  }
}

// Each lane takes every 32nd group.
DPAD_DEVICE void rank_groups(const RouteParams& p, const RouteRow& r) {
  const int groups = static_cast<int>(p.groups), size = static_cast<int>(p.experts) / groups;
  for (int g = thread_index() % 32; g < groups; g += 32) {
    BestTwo best;
    for (int e = g * size; e < (g + 1) * size; ++e) best.add(r.key[e]);
    r.group[g] = best.key();
  }
}

// The experts of all groups but the best get a key that is never chosen.
DPAD_DEVICE void drop_groups(const RouteParams& p, const RouteRow& r) {
  const int groups = static_cast<int>(p.groups), size = static_cast<int>(p.experts) / groups;
  for (int g = thread_index() % 32; g < groups; g += 32) {
    int before = 0;
    for (int other = 0; other < groups; ++other) {
      before += rank_of(r.group[other], other) > rank_of(r.group[g], g) ? 1 : 0;
    }
    if (before < p.top_groups) continue;
    for (int e = g * size; e < (g + 1) * size; ++e) r.key[e] = kNeverKey;
  }
}

DPAD_DEVICE void choose_experts(const RouteParams& p, int64_t row, const RouteRow& r) {
  const int lane = thread_index() % 32, experts = static_cast<int>(p.experts);
  int64_t* expert = p.expert + row * p.top_k;
  float* weight = p.weight + row * p.top_k;
  const int top_k = static_cast<int>(p.top_k);
  Rank last = kBeforeAll;
  float sum = 0;
  for (int k = 0; k < top_k; ++k) {
    Rank best = INT64_MIN;
    DPAD_NO_UNROLL
    for (int e = lane; e < experts; e += 32) {
      const Rank rank = rank_of(r.key[e], e);
      if (rank < last && rank > best) best = rank;
    }
    last = warp_reduce(best, Largest());
    const int64_t chosen = number_of(last);
    const float score = r.score[chosen];
    sum = add_rn(sum, score);
    if (k % 32 != lane) continue;
    expert[k] = chosen;
    weight[k] = score;
  }
  for (int k = lane; k < top_k; k += 32) {  // as above: a lane reads what it wrote
    const float share = p.normalise ? weight[k] / add_rn(sum, kLeastWeightSum) : weight[k];
    weight[k] = mul_rn(share, p.scaling);
  }
}

template <class T>
DPAD_KERNEL(kThreads, 4)
route_kernel(const RouteParams p, int32_t* scratch) {
  for (int64_t first = block_x() * kRouteRows; first < p.rows; first += grid_x() * kRouteRows) {
    const int64_t row = first + thread_index() / 32;
    const bool here = row < p.rows;
    const RouteRow r(p, scratch, here ? row : 0);
    if (here) score_row<T>(p, row, r);
    block_sync();  // from here on lanes read what others wrote
    if (p.groups > 1) {
      if (here) rank_groups(p, r);
      block_sync();
      if (here) drop_groups(p, r);
      block_sync();
    }
    if (here) choose_experts(p, row, r);
  }
}

// Each thread takes a run of pairs, so that the pairs of an expert keep their order.
DPAD_KERNEL(kThreads, 4) route_order_kernel(const RouteParams p) {
  const int64_t pairs = p.rows * p.top_k, run = (pairs + kThreads - 1) / kThreads;
  const int64_t begin = thread_index() * run, end = begin + run < pairs ? begin + run : pairs;
  for (int64_t e = block_x(); e < p.experts; e += grid_x()) {
    int before = 0, own = 0;
    for (int64_t i = begin; i < end; ++i) {
      before += p.expert[i] < e ? 1 : 0;
      own += p.expert[i] == e ? 1 : 0;
    }
    int64_t at = block_prefix(own);
    const int start = block_reduce(before, Sum()), count = block_reduce(own, Sum());
    at += start;
    for (int64_t i = begin; i < end; ++i) {
      if (p.expert[i] == e) p.order[at++] = i;
    }
    if (thread_index() == 0) p.offsets[e] = start + count;
  }
}

}  // namespace dpad::cuda
