#include "cpu/swiglu.h"

#include <algorithm>

#include "cpu/swiglu_piece.h"

namespace dpad::cpu {
namespace {

int64_t pieces(const SwigluParams& p) { return (p.width + kSwigluPiece - 1) / kSwigluPiece; }

}  // namespace

int64_t swiglu_tasks(const SwigluParams& p) { return p.rows * pieces(p); }

int64_t swiglu_grain(const SwigluParams& p) {
  return 1 + (int64_t{1} << 14) / std::clamp<int64_t>(p.width, 1, kSwigluPiece);
}

void swiglu(const SwigluParams& p, int64_t begin, int64_t end) {
  const auto piece = DPAD_PICK(swiglu_piece);
  const int64_t per_row = pieces(p);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t first = item % per_row * kSwigluPiece;
    piece(p, item / per_row, first, std::min(p.width, first + kSwigluPiece));
  }
}

}  // namespace dpad::cpu
