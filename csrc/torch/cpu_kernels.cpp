// The CPU kernels, on torch's own thread pool.
#include <algorithm>

#include "cpu/add_rms_norm.h"
#include "cpu/block_attention.h"
#include "cpu/combine.h"
#include "cpu/confidence.h"
#include "cpu/grouped_linear.h"
#include "cpu/int8_linear.h"
#include "cpu/linear.h"
#include "cpu/rope_kv_write.h"
#include "cpu/route.h"
#include "cpu/scratch.h"
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

void require(const Call& call, const cpu::Scratch& scratch) {
  if (!scratch) call.check.out_of_memory("its scratch memory", scratch.size());
}

// The same for kernels that need `bytes` of scratch memory for each piece of the work.
template <class Params>
void run_tasks(const Call& call, const Params& params, int64_t tasks, int64_t grain, int64_t bytes,
               void (*kernel)(const Params&, int64_t, int64_t, void*)) {
  if (tasks <= 0) return;
  const int64_t parts =
      std::min<int64_t>(torch::stable::get_num_threads(), (tasks - 1) / grain + 1);
  const cpu::Scratch scratch(parts, bytes);
  require(call, scratch);
  const auto start = [&](int64_t part) {
    return tasks / parts * part + std::min(part, tasks % parts);
  };
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      kernel(params, start(part), start(part + 1), scratch.part(part));
    }
  });
}

}  // namespace

void run(const Call&, const SuffixGatherParams& p) { cpu::suffix_gather(p); }

void run(const Call&, const RopeKvWriteParams& p) {
  run_tasks(p, cpu::rope_kv_write_tasks(p), cpu::rope_kv_write_grain(p), cpu::rope_kv_write);
}

void run(const Call& call, const BlockAttentionParams& p) {
  run_tasks(call, p, cpu::block_attention_tasks(p), cpu::block_attention_grain(p),
            cpu::block_attention_scratch(p), cpu::block_attention);
}

void run(const Call&, const AddRmsNormParams& p) {
  run_tasks(p, cpu::add_rms_norm_tasks(p), cpu::add_rms_norm_grain(p), cpu::add_rms_norm);
}

void run(const Call&, const SwigluParams& p) {
  run_tasks(p, cpu::swiglu_tasks(p), cpu::swiglu_grain(p), cpu::swiglu);
}

void run(const Call& call, const LinearParams& p) {
  run_tasks(call, p, cpu::linear_tasks(p), cpu::linear_grain(p), cpu::linear_scratch(p),
            cpu::linear);
}

void run(const Call& call, const RouteParams& p) {
  const cpu::Scratch order(1, cpu::route_order_scratch(p));
  require(call, order);
  run_tasks(call, p, p.rows, cpu::route_grain(p), cpu::route_scratch(p), cpu::route);
  cpu::route_order(p, order.part(0));
}

void run(const Call& call, const GroupedLinearParams& p) {
  run_tasks(call, p, cpu::grouped_linear_tasks(p), cpu::grouped_linear_grain(p),
            cpu::grouped_linear_scratch(p), cpu::grouped_linear);
}

void run(const Call& call, const CombineParams& p) {
  const Tensor place = call.check.empty({p.rows * p.top_k}, ScalarType::Long);
  CombineParams placed = p;
  placed.place = place.mutable_data_ptr<int64_t>();
  call.check.raise(cpu::combine_places(placed));
  run_tasks(call, placed, p.rows, cpu::combine_grain(p), cpu::combine_scratch(p), cpu::combine);
}

void run(const Call& call, const Int8LinearParams& params) {
  Int8LinearParams p = params;
  const auto scratch = [&](int64_t count, ScalarType dtype) {
    return call.check.empty({count}, dtype);
  };
  const Tensor packed = scratch(cpu::int8_linear_words(p), ScalarType::Int);
  const Tensor scales = scratch(p.rows, ScalarType::Float), sums = scratch(p.rows, ScalarType::Int);
  p.packed = packed.mutable_data_ptr<int32_t>();
  p.row_scale = scales.mutable_data_ptr<float>();
  p.row_sum = sums.mutable_data_ptr<int32_t>();
  run_tasks(call, p, cpu::int8_rows_tasks(p), cpu::int8_rows_grain(p), cpu::int8_rows_scratch(p),
            cpu::int8_rows);
  run_tasks(call, p, cpu::int8_linear_tasks(p), cpu::int8_linear_grain(p),
            cpu::int8_linear_scratch(p), cpu::int8_linear);
}

void run(const Call& call, const ConfidenceParams& p) {
  run_tasks(call, p, cpu::confidence_tasks(p), cpu::confidence_grain(p), cpu::confidence_scratch(p),
            cpu::confidence);
}

void run(const Call&, const UniformParams& p) { cpu::uniform(p); }

void run(const Call& call, const UnmaskParams& p) {
  const cpu::Scratch scratch(1, cpu::unmask_scratch(p));
  require(call, scratch);
  cpu::unmask(p, scratch.part(0));
}

}  // namespace dpad
