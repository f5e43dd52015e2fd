// The scans of one row of logits that the selected instruction set does. confidence.cpp puts
// them together and deals with the few ids that are suppressed or excluded.
#pragma once

#include "core/philox.h"
#include "core/softmax_state.h"
#include "cpu/isa.h"
#include "params.h"

namespace dpad::cpu {

struct LogitRow {
  const void* data;  // [vocab]
  DType dtype;
  int64_t vocab;
  const int64_t* skip;  // ids to leave out, ascending
  int64_t skip_count;
};

using RowState = SoftmaxState<double>;

// Gumbel-max over one row; noise as in core/gumbel.h.
struct NoiseScan {
  PhiloxKey key;
  PhiloxCounter counter;  // word 0 is replaced by the pair of ids
  double temperature;
  double best;  // best x + temperature * noise so far and its id: in and out
  int64_t best_id;
};

DPAD_DECLARE_ISA(RowState, scan_row, const LogitRow& row);
DPAD_DECLARE_ISA(void, scan_noise, const LogitRow& row, NoiseScan& scan);

// softmax::move_peak, out of line: these files must not hand inline functions to the program.
void move_peak(RowState& state, int64_t id, float x);

// Replaces the scan's best by `id` if x + temperature * noise beats it (ties: lower id).
void consider(NoiseScan& scan, int64_t id, float x);

}  // namespace dpad::cpu
