// The bindings behind the schemas of library.cpp: checks, outputs, Params, kernel. All but the
// planning operators serve every device.
#pragma once

#include "torch/stable.h"

namespace dpad {

using OptionalTensor = std::optional<Tensor>;

Tensor suffix_table_op(const Text& kind, const Text& grid, int64_t window, double decay,
                       double scale, double count, int64_t near, int64_t length);
Tensor transfer_schedule_op(int64_t masks, int64_t steps);
std::tuple<Tensor, Tensor> suffix_sample_op(const Tensor& seed, const Tensor& row_key,
                                            const Tensor& block, const Tensor& redraw,
                                            const Tensor& end, const Tensor& total,
                                            const Text& kind, const Text& grid, int64_t window,
                                            double decay, double scale, double count, int64_t near,
                                            bool keep_last, int64_t length);
using PlanTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;
PlanTensors plan_pass_op(const Tensor& start, const Tensor& end, const Tensor& kept,
                         const Tensor& kept_count, const Tensor& scope, const Tensor& first,
                         const Tensor& first_target, const Tensor& unseen,
                         const Tensor& predecessor, int64_t shift, int64_t block_length);

Tensor suffix_gather_op(const Tensor& canvas, const Tensor& canvas_row, const Tensor& q_offsets,
                        const Tensor& position, const OptionalTensor& hidden_until,
                        int64_t mask_id);
Tensor rope_kv_write_op(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& q_position,
                        const Tensor& position, const Tensor& slot, const Tensor& q_offsets,
                        const Tensor& kv_start, const Tensor& cos, const Tensor& sin,
                        const Tensor& k_cache, const Tensor& v_cache, bool full_precision);
Tensor block_attention_op(const Tensor& q, const Tensor& k_cache, const Tensor& v_cache,
                          const Tensor& q_offsets, const Tensor& kv_start, const Tensor& n_keys,
                          double scale, const OptionalTensor& key_mask,
                          const OptionalTensor& key_limit);
Tensor add_rms_norm_op(const Tensor& residual, const OptionalTensor& delta, const Tensor& weight,
                       double eps);
Tensor swiglu_op(const Tensor& gate, const Tensor& up);
Tensor linear_op(const Tensor& x, const Tensor& weight, const OptionalTensor& bias);
Tensor int8_linear_op(const Tensor& x, const Tensor& weight, const Tensor& scale,
                      const OptionalTensor& bias, const OptionalTensor& smoothing);

std::tuple<Tensor, Tensor, Tensor, Tensor> route_op(const Tensor& logits,
                                                    const OptionalTensor& bias, int64_t top_k,
                                                    const Text& score, bool normalise,
                                                    int64_t groups, int64_t top_groups,
                                                    double scaling);
Tensor grouped_linear_op(const Tensor& x, const Tensor& weight, const Tensor& offsets);
Tensor grouped_swiglu_op(const Tensor& x, const Tensor& row, const Tensor& gate, const Tensor& up,
                         const Tensor& offsets);
Tensor combine_op(const Tensor& y, const Tensor& order, const Tensor& weight, bool full_precision,
                  bool round_weights);

std::tuple<Tensor, Tensor, Tensor, Tensor> confidence_op(
    const Tensor& logits, const Tensor& l_offsets, const Tensor& position, const Tensor& rng,
    const Tensor& temperature, const Tensor& suppress, const Tensor& exclude,
    const OptionalTensor& noise, bool round_to_dtype);
Tensor uniform_op(const Tensor& rng, const Tensor& l_offsets, const Tensor& position);
void unmask_op(const Tensor& canvas, const Tensor& committed_at, const Tensor& committed,
               const Tensor& masks_left, const Tensor& status, const Tensor& forward,
               const Tensor& canvas_row, const Tensor& l_offsets, const Tensor& position,
               const Tensor& token, const Tensor& score, const Tensor& probability,
               const Tensor& rule_value, const Tensor& quota, const Tensor& length,
               const Tensor& end_ids, int64_t rule, int64_t early_stop, int64_t mask_id,
               int64_t fill_id);

std::string build_info_op();
std::string cpu_isa_op();
void set_cpu_isa_op(const Text& name);
std::string cpu_extensions_op();

}  // namespace dpad
