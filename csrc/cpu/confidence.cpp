#include "cpu/confidence.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "core/gumbel.h"
#include "core/half.h"
#include "core/rows.h"
#include "core/softmax_state.h"
#include "cpu/confidence_scan.h"

namespace dpad::cpu {
namespace {

using half::BFloat16;
using half::Float16;

struct ListedId {
  int64_t id;
  bool suppressed, excluded;
};

// Ids in ascending order and without repetition.
struct Ids {
  int64_t* begin;
  int64_t count = 0;

  bool holds(int64_t id) const { return std::binary_search(begin, begin + count, id); }
};

Ids sorted(const int64_t* ids, int64_t count, int64_t* out) {
  std::copy(ids, ids + count, out);
  std::sort(out, out + count);
  return {out, std::unique(out, out + count) - out};
}

// Ids that are treated apart, in memory of confidence_scratch() bytes.
struct IdLists {
  Ids suppress, exclude;
  Ids skip;          // of either list
  ListedId* listed;  // [skip.count]

  IdLists(const ConfidenceParams& p, void* memory) {
    const int64_t most = p.suppress_count + p.exclude_count;
    listed = static_cast<ListedId*>(memory);
    int64_t* const ids = reinterpret_cast<int64_t*>(listed + most);
    suppress = sorted(p.suppress, p.suppress_count, ids);
    exclude = sorted(p.exclude, p.exclude_count, ids + p.suppress_count);
    skip.begin = ids + most;
    int64_t* const end = std::set_union(suppress.begin, suppress.begin + suppress.count,
                                        exclude.begin, exclude.begin + exclude.count, skip.begin);
    skip.count = end - skip.begin;
    for (int64_t i = 0; i < skip.count; ++i) {
      const int64_t id = skip.begin[i];
      listed[i] = {id, suppress.holds(id), exclude.holds(id)};
    }
  }

  std::span<const ListedId> all() const { return {listed, static_cast<size_t>(skip.count)}; }
};

float value(const LogitRow& row, int64_t id) {
  switch (row.dtype) {
    case DType::kBFloat16:
      return to_float(static_cast<const BFloat16*>(row.data)[id]);
    case DType::kFloat16:
      return to_float(static_cast<const Float16*>(row.data)[id]);
    case DType::kFloat32:
      break;
  }
  return static_cast<const float*>(row.data)[id];
}

struct Peak {
  float value;
  int64_t id;  // -1: every value is minus infinity or a NaN
};

// The lowest id that may be chosen: the answer where no logit decides.
int64_t first_choosable(const IdLists& lists) {
  int64_t id = 0;
  while (id < lists.suppress.count && lists.suppress.begin[id] == id) ++id;
  return id;
}

class Row {
 public:
  Row(const ConfidenceParams& p, const IdLists& lists, int64_t index)
      : p_(p), lists_(lists), index_(index) {
    const int64_t width = p.dtype == DType::kFloat32 ? 4 : 2;
    row_ = {static_cast<const char*>(p.logits) + index * p.logits_stride * width, p.dtype, p.vocab,
            lists.skip.begin, lists.skip.count};
  }

  void run() {
    state_ = DPAD_PICK(scan_row)(row_);
    choosable_ = {state_.peak, state_.id};
    for (const ListedId& s : lists_.all()) {
      const float x = value(row_, s.id);
      if (!s.excluded) softmax::include(state_, s.id, x);
      if (s.suppressed) continue;
      if (x > choosable_.value || (x == choosable_.value && s.id < choosable_.id)) {
        choosable_ = {x, s.id};
      }
    }
    const int64_t token = choosable_.id < 0 ? first_choosable(lists_) : sampled();
    p_.token[index_] = token;
    score(token);
  }

 private:
  // argmax of x + temperature * noise; the greedy choice at temperature 0.
  int64_t sampled() const {
    const int64_t sequence = sequence_of(p_.l_offsets, p_.batch, index_);
    const double temperature = p_.temperature[sequence];
    if (!(temperature > 0)) return choosable_.id;
    if (p_.noise != nullptr) return sampled_by(p_.noise + index_ * p_.noise_stride, temperature);
    const int64_t* rng = p_.rng + 3 * sequence;
    NoiseScan scan{stream_key(rng[0], rng[1], Stream::kNoise),
                   gumbel_counter(0, p_.position[index_], rng[2]), temperature,
                   -std::numeric_limits<double>::infinity(), p_.vocab};
    consider(scan, choosable_.id, choosable_.value);
    DPAD_PICK(scan_noise)(row_, scan);
    for (const ListedId& s : lists_.all()) {
      if (!s.suppressed) consider(scan, s.id, value(row_, s.id));
    }
    return scan.best_id;
  }

  int64_t sampled_by(const double* noise, double temperature) const {
    int64_t next = 0;  // of the suppressed ids
    double best = -std::numeric_limits<double>::infinity();
    int64_t best_id = choosable_.id;
    for (int64_t id = 0; id < p_.vocab; ++id) {
      if (next < lists_.suppress.count && lists_.suppress.begin[next] == id) {
        ++next;
        continue;
      }
      const double x = value(row_, id) + temperature * noise[id];
      if (x > best) best = x, best_id = id;
    }
    return best_id;
  }

  void score(int64_t token) const {
    const softmax::Scores scores =
        softmax::scores(state_, value(row_, token), lists_.exclude.holds(token));
    const auto emit = [&](double* out, double x) {
      out[index_] = p_.round_to_dtype ? half::rounded(static_cast<float>(x), p_.dtype) : x;
    };
    emit(p_.probability, scores.probability);
    emit(p_.margin, scores.margin);
    emit(p_.entropy, scores.entropy);
  }

  const ConfidenceParams& p_;
  const IdLists& lists_;
  const int64_t index_;
  LogitRow row_;
  RowState state_;  // of the ids that are not excluded
  Peak choosable_;  // greedy choice among the ids that are not suppressed
};

}  // namespace

void move_peak(RowState& state, int64_t id, float x) { softmax::move_peak(state, id, x); }

void consider(NoiseScan& scan, int64_t id, float x) {
  PhiloxCounter counter = scan.counter;
  counter.word[0] = low32(id >> 1);
  const double score =
      add_rn(double{x}, mul_rn(scan.temperature, gumbel_at(counter, scan.key, id)));
  if (score > scan.best || (score == scan.best && id < scan.best_id)) {
    scan.best = score;
    scan.best_id = id;
  }
}

int64_t confidence_tasks(const ConfidenceParams& p) { return p.rows; }

int64_t confidence_grain(const ConfidenceParams& p) {
  return 1 + (int64_t{1} << 16) / std::max<int64_t>(p.vocab, 1);
}

int64_t confidence_scratch(const ConfidenceParams& p) {
  const auto bytes = static_cast<int64_t>(sizeof(ListedId) + 2 * sizeof(int64_t));
  return (p.suppress_count + p.exclude_count) * bytes;
}

void confidence(const ConfidenceParams& p, int64_t begin, int64_t end, void* scratch) {
  const IdLists lists(p, scratch);
  for (int64_t row = begin; row < end; ++row) Row(p, lists, row).run();
}

}  // namespace dpad::cpu
