// Chooses the experts of each row and sorts the pairs by expert. A work item is one row.
#pragma once

#include "params.h"

namespace dpad::cpu {

int64_t route_grain(const RouteParams& p);                                    // rows worth a thread
int64_t route_scratch(const RouteParams& p);                                  // bytes
void route(const RouteParams& p, int64_t begin, int64_t end, void* scratch);  // expert and weight
int64_t route_order_scratch(const RouteParams& p);                            // bytes
void route_order(const RouteParams& p, void* scratch);  // order and offsets, afterwards

}  // namespace dpad::cpu
