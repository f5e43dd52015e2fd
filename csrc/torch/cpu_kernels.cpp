// The CPU kernels, on torch's own thread pool.
#include "cpu/add_rms_norm.h"
#include "cpu/block_attention.h"
#include "cpu/combine.h"
#include "cpu/confidence.h"
#include "cpu/grouped_linear.h"
#include "cpu/linear.h"
#include "cpu/rope_kv_write.h"
#include "cpu/route.h"
#include "cpu/suffix_gather.h"
#include "cpu/swiglu.h"
#include "cpu/uniform.h"
#include "cpu/unmask.h"
#include "torch/kernels.h"

namespace dpad {
namespace {

// Runs the work items [0, tasks) of a kernel.
template <class Params>
void run_tasks(const Params& params, int64_t tasks, int64_t grain,
               void (*kernel)(const Params&, int64_t, int64_t)) {
  if (tasks <= 0) return;
  torch::stable::parallel_for(0, tasks, grain,
                              [&](int64_t begin, int64_t end) { kernel(params, begin, end); });
}

}  // namespace

void run(const Call&, const SuffixGatherParams& p) { cpu::suffix_gather(p); }

void run(const Call&, const RopeKvWriteParams& p) {
  run_tasks(p, cpu::rope_kv_write_tasks(p), cpu::rope_kv_write_grain(p), cpu::rope_kv_write);
}

void run(const Call&, const BlockAttentionParams& p) {
  run_tasks(p, cpu::block_attention_tasks(p), cpu::block_attention_grain(p), cpu::block_attention);
}

void run(const Call&, const AddRmsNormParams& p) {
  run_tasks(p, cpu::add_rms_norm_tasks(p), cpu::add_rms_norm_grain(p), cpu::add_rms_norm);
}

void run(const Call&, const SwigluParams& p) {
  run_tasks(p, cpu::swiglu_tasks(p), cpu::swiglu_grain(p), cpu::swiglu);
}

void run(const Call&, const LinearParams& p) {
  run_tasks(p, cpu::linear_tasks(p), cpu::linear_grain(p), cpu::linear);
}

void run(const Call&, const RouteParams& p) {
  run_tasks(p, p.rows, cpu::route_grain(p), cpu::route);
  cpu::route_order(p);
}

void run(const Call&, const GroupedLinearParams& p) {
  run_tasks(p, cpu::grouped_linear_tasks(p), cpu::grouped_linear_grain(p), cpu::grouped_linear);
}

void run(const Call& call, const CombineParams& p) {
  const Tensor place = empty_like_dtype(call.like, {p.rows * p.top_k}, ScalarType::Long);
  CombineParams placed = p;
  placed.place = place.mutable_data_ptr<int64_t>();
  call.check.raise(cpu::combine_places(placed));
  run_tasks(placed, p.rows, cpu::combine_grain(p), cpu::combine);
}

void run(const Call&, const ConfidenceParams& p) {
  run_tasks(p, cpu::confidence_tasks(p), cpu::confidence_grain(p), cpu::confidence);
}

void run(const Call&, const UniformParams& p) { cpu::uniform(p); }

void run(const Call&, const UnmaskParams& p) { cpu::unmask(p); }

}  // namespace dpad
