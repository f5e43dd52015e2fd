// The bindings of the operators that have a CUDA kernel; schemas are in torch/library.cpp.
#pragma once

#include "torch/stable.h"

namespace dpad::cuda {

using OptionalTensor = std::optional<Tensor>;

Tensor suffix_gather_op(const Tensor& canvas, const Tensor& canvas_row, const Tensor& q_offsets,
                        const Tensor& position, const OptionalTensor& hidden_until,
                        int64_t mask_id);
Tensor rope_kv_write_op(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& q_position,
                        const Tensor& position, const Tensor& slot, const Tensor& q_offsets,
                        const Tensor& cache_row, const Tensor& cos, const Tensor& sin,
                        const Tensor& k_cache, const Tensor& v_cache, bool full_precision);
Tensor add_rms_norm_op(const Tensor& residual, const OptionalTensor& delta, const Tensor& weight,
                       double eps);
Tensor swiglu_op(const Tensor& gate, const Tensor& up);

}  // namespace dpad::cuda
