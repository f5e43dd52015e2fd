// Soft-max statistics by the one-pass state (peak, s without the peak, second, t): p = 1 / (1 + s)
// in float64 keeps the order of very confident rows, which a float32 p (exactly 1 where
// 1 - p < 6e-8) would lose.
#include "cpu/confidence.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "core/gumbel.h"
#include "cpu/confidence_scan.h"
#include "cpu/half.h"

namespace dpad::cpu {
namespace {

struct Special {
  int64_t id;
  bool suppressed, excluded;
};

std::vector<Special> special_ids(const ConfidenceParams& p) {
  std::vector<int64_t> ids;
  std::set_union(p.suppress, p.suppress + p.suppress_count, p.exclude, p.exclude + p.exclude_count,
                 std::back_inserter(ids));
  std::vector<Special> out;
  for (const int64_t id : ids) {
    out.push_back({id, std::binary_search(p.suppress, p.suppress + p.suppress_count, id),
                   std::binary_search(p.exclude, p.exclude + p.exclude_count, id)});
  }
  return out;
}

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

double rounded(double x, DType dtype) {
  BFloat16 brain;
  Float16 half;
  switch (dtype) {
    case DType::kBFloat16:
      from_float(static_cast<float>(x), brain);
      return to_float(brain);
    case DType::kFloat16:
      from_float(static_cast<float>(x), half);
      return to_float(half);
    case DType::kFloat32:
      break;
  }
  return static_cast<float>(x);
}

// Adds one id to the state.
void include(RowState& state, int64_t id, float x) {
  if (x > state.peak) return move_peak(state, id, x);
  state.second = std::max(state.second, x);
  if (x == state.peak && state.id >= 0) state.id = std::min(state.id, id);
  if (std::isinf(x)) return;
  const double d = (double{x} - state.peak) * std::numbers::log2e;
  state.s += std::exp2(d);
  state.t += d * std::exp2(d);
}

struct Peak {
  float value;
  int64_t id;  // -1: every value is minus infinity or a NaN
};

// The lowest id that may be chosen: the answer where no logit decides.
int64_t first_choosable(const ConfidenceParams& p) {
  int64_t id = 0;
  while (id < p.suppress_count && p.suppress[id] == id) ++id;
  return id;
}

class Row {
 public:
  Row(const ConfidenceParams& p, const std::vector<Special>& special,
      const std::vector<int64_t>& skip, int64_t index)
      : p_(p), special_(special), index_(index) {
    const int64_t width = p.dtype == DType::kFloat32 ? 4 : 2;
    row_ = {static_cast<const char*>(p.logits) + index * p.logits_stride * width, p.dtype, p.vocab,
            skip.data(), static_cast<int64_t>(skip.size())};
  }

  void run() {
    state_ = DPAD_PICK(scan_row)(row_);
    choosable_ = {state_.peak, state_.id};
    for (const Special& s : special_) {
      const float x = value(row_, s.id);
      if (!s.excluded) include(state_, s.id, x);
      if (s.suppressed) continue;
      if (x > choosable_.value || (x == choosable_.value && s.id < choosable_.id)) {
        choosable_ = {x, s.id};
      }
    }
    const int64_t token = choosable_.id < 0 ? first_choosable(p_) : sampled();
    p_.token[index_] = token;
    score(token);
  }

 private:
  // argmax of x + temperature * noise; the greedy choice at temperature 0.
  int64_t sampled() const {
    const int64_t sequence = p_.sequence[index_];
    const double temperature = p_.temperature[sequence];
    if (!(temperature > 0)) return choosable_.id;
    if (p_.noise != nullptr) return sampled_by(p_.noise + index_ * p_.noise_stride, temperature);
    const int64_t* rng = p_.rng + 3 * sequence;
    NoiseScan scan{stream_key(rng[0], rng[1], Stream::kNoise),
                   gumbel_counter(0, p_.position[index_], rng[2]), temperature,
                   -std::numeric_limits<double>::infinity(), p_.vocab};
    consider(scan, choosable_.id, choosable_.value);
    DPAD_PICK(scan_noise)(row_, scan);
    for (const Special& s : special_) {
      if (!s.suppressed) consider(scan, s.id, value(row_, s.id));
    }
    return scan.best_id;
  }

  int64_t sampled_by(const double* noise, double temperature) const {
    const int64_t* suppressed = p_.suppress;
    const int64_t* const suppress_end = suppressed + p_.suppress_count;
    double best = -std::numeric_limits<double>::infinity();
    int64_t best_id = choosable_.id;
    for (int64_t id = 0; id < p_.vocab; ++id) {
      if (suppressed != suppress_end && *suppressed == id) {
        ++suppressed;
        continue;
      }
      const double x = value(row_, id) + temperature * noise[id];
      if (x > best) best = x, best_id = id;
    }
    return best_id;
  }

  void score(int64_t token) const {
    double probability = std::numeric_limits<double>::quiet_NaN();
    double margin = probability, entropy = probability;
    const bool usable = state_.id >= 0 && std::isfinite(state_.peak);
    if (usable && !std::isnan(state_.s) && !std::isnan(state_.t)) {
      const double all = 1 + state_.s, peak = state_.peak;
      probability = excluded(token) ? 0.0 : std::exp(value(row_, token) - peak) / all;
      margin = -std::expm1(state_.second - peak) / all;
      entropy = std::log1p(state_.s) - std::numbers::ln2 * state_.t / all;
    }
    const auto emit = [&](double* out, double x) {
      out[index_] = p_.round_to_dtype ? rounded(x, p_.dtype) : x;
    };
    emit(p_.probability, probability);
    emit(p_.margin, margin);
    emit(p_.entropy, entropy);
  }

  bool excluded(int64_t id) const {
    return std::binary_search(p_.exclude, p_.exclude + p_.exclude_count, id);
  }

  const ConfidenceParams& p_;
  const std::vector<Special>& special_;
  const int64_t index_;
  LogitRow row_;
  RowState state_;  // of the ids that are not excluded
  Peak choosable_;  // greedy choice among the ids that are not suppressed
};

}  // namespace

void move_peak(RowState& state, int64_t id, float x) {
  if (state.id >= 0) {
    const double shift = (double{state.peak} - x) * std::numbers::log2e;
    const double scale = std::exp2(shift), all = state.s + 1;
    if (scale > 0) state.t = scale * (state.t + shift * all);
    state.s = scale * all;
    state.second = state.peak;
  }
  state.peak = x;
  state.id = id;
}

void consider(NoiseScan& scan, int64_t id, float x) {
  PhiloxCounter counter = scan.counter;
  counter.word[0] = low32(id >> 1);
  const double score = x + scan.temperature * gumbel_at(counter, scan.key, id);
  if (score > scan.best || (score == scan.best && id < scan.best_id)) {
    scan.best = score;
    scan.best_id = id;
  }
}

int64_t confidence_tasks(const ConfidenceParams& p) { return p.rows; }

int64_t confidence_grain(const ConfidenceParams& p) {
  return 1 + (int64_t{1} << 16) / std::max<int64_t>(p.vocab, 1);
}

void confidence(const ConfidenceParams& p, int64_t begin, int64_t end) {
  const std::vector<Special> special = special_ids(p);
  std::vector<int64_t> skip;
  for (const Special& s : special) skip.push_back(s.id);
  for (int64_t row = begin; row < end; ++row) Row(p, special, skip, row).run();
}

}  // namespace dpad::cpu
