#include <cmath>

#include "core/route.h"
#include "torch/kernels.h"
#include "torch/ops.h"

namespace dpad {
namespace {

Score score_named(const Checks& check, const std::string& name) {
  if (name == "softmax") return Score::kSoftmax;
  if (name == "sigmoid") return Score::kSigmoid;
  check.fail("argument 'score' = \"" + name + "\": expected softmax or sigmoid");
}

void at_least_one(const Checks& check, const char* name, int64_t value, int64_t most,
                  const char* expected) {
  if (value < 1 || value > most) check.raise({name, expected, -1, static_cast<double>(value)});
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> route_op(const Tensor& logits,
                                                    const OptionalTensor& bias, int64_t top_k,
                                                    const Text& score, bool normalise,
                                                    int64_t groups, int64_t top_groups,
                                                    double scaling) {
  const Checks check("route", logits);
  RouteParams p{};
  p.dtype = check.dtype("logits", logits);
  check.shape("logits", logits, {-1, -1});
  p.rows = logits.size(0), p.experts = logits.size(1);
  p.score = score_named(check, score.value);
  at_least_one(check, "groups", groups, p.experts, "a count of groups that divides the experts");
  const int64_t each = p.experts / groups;
  if (p.experts % groups != 0 || (groups > 1 && each < 2)) {
    check.raise({"groups", "a divisor of the experts that leaves each group two", -1,
                 static_cast<double>(groups)});
  }
  at_least_one(check, "top_groups", top_groups, groups, "between 1 and the number of groups");
  at_least_one(check, "top_k", top_k, top_groups * each,
               "between 1 and the number of experts that may be chosen");
  if (!std::isfinite(scaling)) check.raise({"scaling", "a finite value", -1, scaling});
  if (p.experts > kMostExperts) {
    check.raise({"logits", "at most 2**31 - 32 experts", -1, static_cast<double>(p.experts)});
  }
  if (p.rows > INT32_MAX / top_k) {
    check.raise({"logits", "rows times top_k below 2**31", -1, static_cast<double>(p.rows)});
  }
  OptionalTensor added;
  if (bias) {
    check.tensor("bias", *bias, ScalarType::Float, {p.experts});
    added = check.rows_contiguous("bias", *bias);
  }

  const Tensor lc = check.rows_contiguous("logits", logits);
  Tensor expert = check.empty({p.rows, top_k}, ScalarType::Long);
  Tensor weight = check.empty({p.rows, top_k}, ScalarType::Float);
  Tensor order = check.empty({p.rows * top_k}, ScalarType::Long);
  Tensor offsets = check.empty({p.experts}, ScalarType::Int);
  if (p.rows == 0) {
    torch::stable::zero_(offsets);
    return {expert, weight, order, offsets};
  }
  p.logits = lc.const_data_ptr();
  p.logits_stride = lc.stride(0);
  p.bias = added ? added->const_data_ptr<float>() : nullptr;
  p.expert = expert.mutable_data_ptr<int64_t>();
  p.weight = weight.mutable_data_ptr<float>();
  p.order = order.mutable_data_ptr<int64_t>();
  p.offsets = offsets.mutable_data_ptr<int32_t>();
  p.top_k = top_k, p.groups = groups, p.top_groups = top_groups;
  p.scaling = static_cast<float>(scaling), p.normalise = normalise;
  run({check, logits}, p);
  return {expert, weight, order, offsets};
}

}  // namespace dpad
