// Chooses the experts of each row and sorts the pairs by expert. A work item is one row.
#pragma once

#include "params.h"

namespace dpad::cpu {

int64_t route_grain(const RouteParams& p);                     // rows worth a thread
void route(const RouteParams& p, int64_t begin, int64_t end);  // expert and weight
void route_order(const RouteParams& p);                        // order and offsets, afterwards

}  // namespace dpad::cpu
