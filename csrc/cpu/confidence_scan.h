// The scans of one row of logits that the selected instruction set does. confidence.cpp puts
// them together and deals with the few ids that are suppressed or excluded.
#pragma once

#include "core/philox.h"
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

// Soft-max state of some ids of a row. With d = (x - peak) / ln 2, over all of them but the peak:
struct RowState {
  float peak;    // largest value, minus infinity if there is none
  int64_t id;    // the lowest id with this value; -1 if every value is -inf or NaN
  float second;  // largest value but for the peak
  double s;      // sum of 2^d; a NaN among the values makes s or t a NaN
  double t;      // sum of d 2^d
};

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

// Makes (id, x) the state's peak, x being larger: s, t and second move over to it, and the old peak
// is one of the others from now on.
void move_peak(RowState& state, int64_t id, float x);

// Replaces the scan's best by `id` if x + temperature * noise beats it (ties: lower id).
void consider(NoiseScan& scan, int64_t id, float x);

}  // namespace dpad::cpu
