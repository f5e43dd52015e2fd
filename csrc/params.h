// One plain struct per operator: pointers, sizes, strides in elements, scalars.
// No torch and no CUDA include: kernels on every device read the same structs.
//
// Index tensors are int64. A pass is a flat list of rows grouped by sequence: the rows of sequence
// b are [q_offsets[b], q_offsets[b + 1]); its keys are its slots [0, n_keys[b]). All sequences
// share one K/V arena, in which slot i of sequence b is slot kv_start[b] + i. "Logit rows" are the
// rows whose hidden states reach the head; those of sequence b are [l_offsets[b], l_offsets[b +
// 1]).
#pragma once

#include <cstdint>

namespace dpad {

enum class DType : int32_t { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

// How unmask_ chooses among the eligible positions of a block; by every rule but kAtLeast at most
// `quota` of them. At least one is committed, except by kBelow and by a quota of 0.
enum class Rule : int32_t {
  kThreshold = 0,     // every position with score >= rule_value
  kFactor = 1,        // largest m with (j + 1)(1 - score_j) <= rule_value for j = 2..m, descending
  kQuota = 2,         // the best, as many as the quota; 0 waits
  kEntropyBound = 3,  // ascending entropy, while the sum without its largest term <= rule_value
  kFactorPublished = 4,  // kFactor as published: a failure of the last candidate is overlooked
  kBelow = 5,            // every position with score < rule_value, ascending; possibly none
  kAtLeast = 6,          // every position with score >= rule_value, and the best up to the quota
  kEntropySum = 7,       // ascending entropy, while the sum of all stays < rule_value
};

// When the end ids are looked for that end a sequence.
enum class Stop : int32_t {
  kNever = 0,
  kBlock = 1,  // in a block without masks
  kText = 2,   // in every step: an end id that no mask of the pass's targets precedes
};

// What a routed MLP makes of its router's logits; float32.
enum class Score : int32_t { kSoftmax = 0, kSigmoid = 1 };

// Written by unmask_, one per sequence; the only thing the host reads in a step.
// kInvalid: an index or a token out of range, on devices that cannot refuse it beforehand.
enum class SequenceStatus : int64_t {
  kRunning = 0,
  kBlockDone = 1,
  kFinished = 2,
  kNaN = 3,
  kInvalid = 4,
};

struct SuffixGatherParams {
  const int64_t* canvas;        // [canvas_rows, length], token ids
  int64_t canvas_stride;        // elements between canvas rows
  const int64_t* canvas_row;    // [batch]
  const int64_t* q_offsets;     // [batch + 1]
  const int64_t* position;      // [rows]
  const int64_t* hidden_until;  // [batch] or null: positions below it read as mask_id
  int64_t* out;                 // [rows]
  int64_t batch;
  int64_t mask_id;
  int64_t rows, canvas_rows, length;  // bounds
};

struct RopeKvWriteParams {
  const void* q;  // [q_rows, num_heads, head_dim], last dimension contiguous
  const void* k;  // [rows, num_kv_heads, head_dim]
  const void* v;  // [rows, num_kv_heads, head_dim]
  int64_t q_row_stride, q_head_stride;
  int64_t k_row_stride, k_head_stride;
  int64_t v_row_stride, v_head_stride;
  const int64_t* q_position;  // [q_rows]
  const int64_t* position;    // [rows]
  const int64_t* slot;        // [rows]; -1 is padding: never written
  const int64_t* q_offsets;   // [batch + 1]
  const int64_t* kv_start;    // [batch], arena slot of each sequence's slot 0
  const float* cos;           // [positions, rotary_dim / 2], contiguous
  const float* sin;           // [positions, rotary_dim / 2], contiguous
  void* q_out;                // [q_rows, num_heads, head_dim], contiguous
  void* k_cache;              // [num_kv_heads, slots, head_dim], last dimension contiguous
  void* v_cache;              // as k_cache
  int64_t k_cache_head_stride, k_cache_slot_stride;
  int64_t v_cache_head_stride, v_cache_slot_stride;
  int64_t q_rows, rows, num_heads, num_kv_heads, head_dim, rotary_dim;
  int64_t batch, positions, slots;  // bounds; slots of the arena
  // true: rotate in float32, round once. false: cos, sin, both products and the sum are each
  // rounded to dtype. Products are never contracted into an FMA, in either form.
  bool full_precision;
  DType dtype;
};

struct BlockAttentionParams {
  const void* q;        // [q_rows, num_heads, head_dim], last dimension contiguous
  const void* k_cache;  // [num_kv_heads, slots, head_dim], last dimension contiguous
  const void* v_cache;  // as k_cache
  void* out;            // [q_rows, num_heads, head_dim], contiguous
  int64_t q_row_stride, q_head_stride;
  int64_t k_head_stride, k_slot_stride;
  int64_t v_head_stride, v_slot_stride;
  const int64_t* q_offsets;  // [batch + 1]
  const int64_t* kv_start;   // [batch], arena slot of each sequence's slot 0
  const int64_t* n_keys;     // [batch]
  const bool* key_mask;      // [slots] of the arena, true = may be looked at, or null
  const int64_t* key_limit;  // [q_rows]: a row looks at its sequence's slots below, or null
  int64_t batch, num_heads, num_kv_heads, head_dim;
  int64_t q_rows, slots;  // bounds; slots of the arena
  float scale;
  DType dtype;
};

struct AddRmsNormParams {
  void* residual;      // [rows, width], last dimension contiguous; becomes residual + delta
  const void* delta;   // [rows, width] or null
  const void* weight;  // [width]
  void* out;           // [rows, width], contiguous
  int64_t residual_stride, delta_stride;
  int64_t rows, width;
  float eps;
  DType dtype;
};

struct SwigluParams {
  const void* gate;  // [rows, width], last dimension contiguous
  const void* up;    // [rows, width]
  void* out;         // [rows, width], contiguous
  int64_t gate_stride, up_stride;
  int64_t rows, width;
  DType dtype;
};

struct LinearParams {
  const void* x;       // [rows, in_features], last dimension contiguous
  const int64_t* row;  // [rows] or null: where in x each row lies
  const void* weight;  // [out_features, in_features], last dimension contiguous
  const void* gate;    // as weight, or null: out becomes silu(x gate^T) * (x weight^T)
  const void* bias;    // [out_features] or null
  void* out;           // [rows, out_features], contiguous
  int64_t x_stride, weight_stride, gate_stride;
  int64_t rows, in_features, out_features;
  DType dtype;
};

// The pairs of a routed MLP: pair row * top_k + k is the k-th expert of a row. "Grouped order" is
// by expert, those of one expert in their own order; a pair's place is where it stands there.
struct RouteParams {
  const void* logits;  // [rows, experts], last dimension contiguous
  int64_t logits_stride;
  const float* bias;  // [experts] or null: added to the scores that choose
  int64_t* expert;    // [rows, top_k]
  float* weight;      // [rows, top_k]
  int64_t* order;     // [rows * top_k], the pair at each place
  int32_t* offsets;   // [experts], end of each expert's places
  int64_t rows, experts, top_k;
  int64_t groups, top_groups;  // experts of the best top_groups groups may be chosen
  float scaling;
  bool normalise;  // divide the weights of a row by their sum
  Score score;
  DType dtype;
};

struct CombineParams {
  const void* y;         // [rows * top_k, width], grouped order, last dimension contiguous
  const int64_t* order;  // [rows * top_k]
  const float* weight;   // [rows, top_k], contiguous
  int64_t* place;        // [rows * top_k], scratch: the place of each pair
  void* out;             // [rows, width], contiguous
  int64_t y_stride;
  int64_t rows, top_k, width;
  // true: in float32, k = 0, 1, ..., rounded once. false: products and sums are each rounded to
  // dtype, experts in ascending order; so are weights, if round_weights.
  bool full_precision, round_weights;
  DType dtype;
};

struct GroupedLinearParams {
  const void* x;           // [rows, in_features], grouped by expert, last dimension contiguous
  const int64_t* row;      // [rows] or null: where in x each of the grouped rows lies
  const void* weight;      // [experts, out_features, in_features], last dimension contiguous
  const void* gate;        // as weight, or null: see LinearParams
  const int32_t* offsets;  // [experts], end of each expert's rows
  void* out;               // [rows, out_features], contiguous
  int64_t x_stride, weight_stride, expert_stride;
  int64_t gate_stride, gate_expert_stride;
  int64_t rows, experts, in_features, out_features;
  DType dtype;
};

// Rows whose largest magnitude is below this count as zeros in int8_linear.
constexpr float kInt8Least = 0x1p-100f;
// Features whose products, at most 255 * 127 each, cannot overflow a sum of 32 bits.
constexpr int64_t kInt8Most = 65536;

struct Int8LinearParams {
  const void* x;           // [rows, in_features], last dimension contiguous
  const int8_t* weight;    // [out_features, in_features], last dimension contiguous
  const float* scale;      // [out_features]
  const void* bias;        // [out_features] or null, of x's type
  const float* smoothing;  // [in_features] or null: factors of x's columns
  void* out;               // [rows, out_features], contiguous
  int32_t* packed;         // the rows as 8-bit numbers, int8_linear_words() of them
  float* row_scale;        // [rows]
  int32_t* row_sum;        // [rows], sum of the row's 8-bit numbers
  int64_t x_stride, weight_stride;
  int64_t rows, in_features, out_features;
  DType dtype;
};

struct ConfidenceParams {
  const void* logits;  // [logit_rows, vocab], last dimension contiguous
  int64_t logits_stride;
  const int64_t* position;    // [logit_rows], absolute position that each row predicts
  const int64_t* l_offsets;   // [batch + 1]
  const int64_t* rng;         // [batch, 3]: seed, row key, number of the forward
  const double* temperature;  // [batch]; 0 is greedy
  const int64_t* suppress;    // ids that are never chosen
  const int64_t* exclude;     // ids left out of the soft-max
  int64_t suppress_count, exclude_count;
  const double* noise;  // [logit_rows, vocab] standard Gumbel noise, or null (counter-based)
  int64_t noise_stride;
  int64_t* token;       // [logit_rows]
  double* probability;  // [logit_rows], of the chosen token, soft-max of the un-noised logits
  double* margin;       // [logit_rows], best minus second-best probability
  double* entropy;      // [logit_rows], nats
  int64_t batch, rows, vocab;
  bool round_to_dtype;  // round the three scores to the logits' dtype
  DType dtype;
};

struct UniformParams {
  const int64_t* position;   // [logit_rows]
  const int64_t* l_offsets;  // [batch + 1]
  const int64_t* rng;        // [batch, 3]: seed, row key, number of the forward
  double* out;               // [logit_rows], in (0, 1]
  int64_t batch, rows;
};

struct UnmaskParams {
  int64_t* canvas;            // [canvas_rows, length]
  int64_t* committed_at;      // [canvas_rows, length], number of the forward
  double* committed;          // [canvas_rows, length], probability at the commit
  int64_t* masks_left;        // [canvas_rows], masks left in the current block
  int64_t* status;            // [canvas_rows], SequenceStatus
  int64_t* forward;           // [canvas_rows], forwards so far
  int64_t canvas_stride;      // of canvas, committed_at and committed
  const int64_t* canvas_row;  // [batch], distinct
  const int64_t* l_offsets;   // [batch + 1]
  const int64_t* position;    // [logit_rows]
  const int64_t* token;       // [logit_rows]
  const double* score;        // [logit_rows], what the rule ranks
  const double* probability;  // [logit_rows], what is recorded
  const double* rule_value;   // [batch], threshold, factor or entropy bound
  const int64_t* quota;       // [batch], most positions that are committed
  const int64_t* length;      // [batch], canvas length of each sequence
  const int64_t* end_ids;     // end-of-text ids
  int64_t end_count;
  int64_t batch, mask_id, fill_id;
  int64_t canvas_rows, rows;  // bounds; rows: logit rows
  Rule rule;
  Stop early_stop;
};

}  // namespace dpad
