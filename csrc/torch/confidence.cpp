#include <algorithm>
#include <cmath>

#include "torch/kernels.h"
#include "torch/ops.h"

namespace dpad {
namespace {

Tensor special_ids(const Checks& check, const char* name, const Tensor& t, int64_t vocab) {
  const Tensor ids = check.indices(name, t, -1);
  check.range(name, ids, 0, vocab);
  return ids;
}

// Refuses ids that leave nothing of the vocabulary.
void check_some_left(const Checks& check, const Tensor& ids, int64_t vocab) {
  if (!check.sees_values() || ids.numel() < vocab) return;
  const Tensor marks = check.empty({vocab}, ScalarType::Bool);
  bool* const seen = marks.mutable_data_ptr<bool>();
  std::fill(seen, seen + vocab, false);
  int64_t distinct = 0;
  for (int64_t i = 0; i < ids.numel(); ++i) {
    bool& mark = seen[int64_data(ids)[i]];
    distinct += !mark;
    mark = true;
  }
  if (distinct >= vocab) {
    check.raise({"suppress", "fewer ids than the vocabulary", -1, double(distinct)});
  }
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> confidence_op(
    const Tensor& logits, const Tensor& l_offsets, const Tensor& position, const Tensor& rng,
    const Tensor& temperature, const Tensor& suppress, const Tensor& exclude,
    const OptionalTensor& noise, bool round_to_dtype) {
  const Checks check("confidence", logits);
  const DType dtype = check.dtype("logits", logits);
  check.shape("logits", logits, {-1, -1});
  const int64_t rows = logits.size(0), vocab = logits.size(1);
  const Tensor positions = check.indices("position", position, rows);
  check.tensor("temperature", temperature, ScalarType::Double, {-1});
  const int64_t batch = temperature.numel();
  const Tensor temperatures = check.contiguous("temperature", temperature);
  const Tensor offsets = check.indices("l_offsets", l_offsets, batch + 1);
  check.offsets("l_offsets", offsets, rows);
  check.tensor("rng", rng, ScalarType::Long, {batch, 3});
  const Tensor rngs = check.contiguous("rng", rng);
  for (int64_t b = 0; check.sees_values() && b < batch; ++b) {
    const double value = temperatures.const_data_ptr<double>()[b];
    if (!(value >= 0) || !std::isfinite(value)) {
      check.raise({"temperature", "a finite value >= 0", b, value});
    }
  }
  const Tensor never = special_ids(check, "suppress", suppress, vocab);
  const Tensor outside = special_ids(check, "exclude", exclude, vocab);
  check_some_left(check, never, vocab);
  OptionalTensor gumbel;
  if (noise) {
    check.tensor("noise", *noise, ScalarType::Double, {rows, vocab});
    gumbel = check.rows_contiguous("noise", *noise);
  }

  const Tensor lc = check.rows_contiguous("logits", logits);
  Tensor token = check.empty({rows}, ScalarType::Long);
  Tensor probability = check.empty({rows}, ScalarType::Double);
  Tensor margin = check.empty({rows}, ScalarType::Double);
  Tensor entropy = check.empty({rows}, ScalarType::Double);
  ConfidenceParams p{};
  p.logits = lc.const_data_ptr();
  p.logits_stride = lc.stride(0);
  p.position = int64_data(positions);
  p.l_offsets = int64_data(offsets);
  p.rng = int64_data(rngs);
  p.temperature = temperatures.const_data_ptr<double>();
  p.suppress = int64_data(never), p.suppress_count = never.numel();
  p.exclude = int64_data(outside), p.exclude_count = outside.numel();
  p.noise = gumbel ? gumbel->const_data_ptr<double>() : nullptr;
  p.noise_stride = gumbel ? gumbel->stride(0) : 0;
  p.token = token.mutable_data_ptr<int64_t>();
  p.probability = probability.mutable_data_ptr<double>();
  p.margin = margin.mutable_data_ptr<double>();
  p.entropy = entropy.mutable_data_ptr<double>();
  p.batch = batch, p.rows = rows, p.vocab = vocab;
  p.round_to_dtype = round_to_dtype;
  p.dtype = dtype;
  run({check, logits}, p);
  return {token, probability, margin, entropy};
}

}  // namespace dpad
