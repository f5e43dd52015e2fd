// The planner: which rows a pass computes, and where. One mechanism carries every cache mode.
//
// The visible positions of a sequence lie densely in slots:
//
//     slots      0 ......... s-1 | s ......... e-1 | e ............ n-1
//     contents   prompt, decoded | current block   | kept suffix
//     positions  0 ......... s-1 | s ......... e-1 | sparse, ascending
//
// A pass computes the slots [from, to) of each sequence, and its logit rows are the rows whose
// hidden states predict the targets: the positions [first_target, e) of the block. These are the
// targets' own rows, or with a logit shift of 1 their predecessors'; a target whose predecessor is
// not in the pass is predicted from its own row.
#pragma once

#include <cstdint>
#include <vector>

#include "core/error.h"

namespace dpad {

// Which slots a pass computes; the others are read from the cache.
enum class Scope : int64_t {
  kAll = 0,     // [first, n): no cache, every refresh, and a prefill
  kSuffix = 1,  // [s, n): cached step with a prefix cache
  kBlock = 2,   // [s, e): cached step with a dual cache, and the block-causal passes
};

// Positions and block lengths lie below, so that no sum of two overflows.
inline constexpr int64_t kMaxPosition = int64_t{1} << 40;
// Rows of one pass: more would fill the memory before anything is computed.
inline constexpr int64_t kMaxPassRows = int64_t{1} << 24;

struct PlanInput {
  const int64_t* start;  // [batch], s
  const int64_t* end;    // [batch], e
  const int64_t* kept;   // [kept_total], positions >= e of each sequence, ascending
  int64_t kept_total;
  const int64_t* kept_count;    // [batch], of each sequence
  const int64_t* scope;         // [batch], Scope
  const int64_t* first;         // [batch], in [0, s]: first slot computed by Scope::kAll
  const int64_t* first_target;  // [batch], in [s, e]: positions from here on have logit rows
  const int64_t* unseen;        // [batch], leading slots out of view: slots count from there
  const int64_t* predecessor;   // [batch], 1: it joins a pass that begins with the block
  int64_t batch;
  int64_t shift;         // 0, or 1 for models whose row i - 1 predicts position i
  int64_t block_length;  // block-causal: a row looks up to the end of its own block; 0: full
};

struct Plan {
  std::vector<int64_t> slot, position, q_offsets, n_keys;     // rows, rows, batch + 1, batch
  std::vector<int64_t> logit_row, logit_position, l_offsets;  // logit rows (twice), batch + 1
  std::vector<int64_t> key_limit;                             // rows; empty with full attention
};

Error validate(const PlanInput& input);
Plan plan_pass(const PlanInput& input);

}  // namespace dpad
