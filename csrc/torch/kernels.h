// The kernels behind the bindings. Every binding is compiled once and linked into _C and _C_cuda;
// each of these modules supplies the functions for its own device.
#pragma once

#include "torch/checks.h"

namespace dpad {

// What a kernel may need besides its Params: the operator's checks, to report a failure, and a
// tensor on the device, to allocate scratch memory like it.
struct Call {
  const Checks& check;
  const Tensor& like;
};

void run(const Call& call, const SuffixGatherParams& p);
void run(const Call& call, const RopeKvWriteParams& p);
void run(const Call& call, const BlockAttentionParams& p);
void run(const Call& call, const AddRmsNormParams& p);
void run(const Call& call, const SwigluParams& p);
void run(const Call& call, const LinearParams& p);      // CPU only
void run(const Call& call, const Int8LinearParams& p);  // CPU only; allocates the scratch tensors
void run(const Call& call, const RouteParams& p);
void run(const Call& call, const GroupedLinearParams& p);  // CPU only
void run(const Call& call, const CombineParams& p);
void run(const Call& call, const ConfidenceParams& p);
void run(const Call& call, const UniformParams& p);
void run(const Call& call, const UnmaskParams& p);

}  // namespace dpad
