// Every kernel that the launchers of csrc/cuda can choose, compiled for the emulator.
#include <dlfcn.h>

#include <stdexcept>
#include <tuple>
#include <utility>

#include "cuda/add_rms_norm.cuh"
#include "cuda/block_attention.cuh"
#include "cuda/block_attention_simple.cuh"
#include "cuda/combine.cuh"
#include "cuda/confidence.cuh"
#include "cuda/rope_kv_write.cuh"
#include "cuda/route.cuh"
#include "cuda/suffix_gather.cuh"
#include "cuda/swiglu.cuh"
#include "cuda/uniform.cuh"
#include "cuda/unmask.cuh"
#include "fake_cuda_runtime.h"

namespace dpad::cuda {
namespace {

using test::EmulatedKernel;

using Table = std::map<std::string, EmulatedKernel>;

template <class... Parameters, size_t... I>
std::function<void()> bound(void (*kernel)(Parameters...), void** arguments,
                            std::index_sequence<I...>) {
  std::tuple<Parameters...> values{*static_cast<Parameters*>(arguments[I])...};
  return [kernel, values] { std::apply(kernel, values); };
}

template <class... Parameters>
void add(Table& table, size_t static_shared, void (*kernel)(Parameters...)) {
  Dl_info symbol{};
  if (dladdr(reinterpret_cast<void*>(kernel), &symbol) == 0 || symbol.dli_sname == nullptr) {
    throw std::logic_error("the program does not export the names of its kernels");
  }
  table[symbol.dli_sname] = {static_shared, [kernel](void** arguments) {
                               return bound(kernel, arguments,
                                            std::index_sequence_for<Parameters...>());
                             }};
}

// Static shared memory in bytes is what tests/artefacts/test_cubin.py allows.
template <class T, int N>
void add_packed(Table& table) {
  add(table, 32, add_rms_norm_kernel<T, N>);
  add(table, 0, combine_kernel<T, N>);
  add(table, 2624, confidence_kernel<T, N>);
  add(table, 0, rope_kv_write_kernel<T, N>);
  add(table, 0, swiglu_kernel<T, N>);
}

template <class S>
void add_attention(Table& table) {
  add(table, 48, block_attention_kernel<S>);
  add(table, 0, block_attention_merge_kernel<S>);
}

template <class T>
void add_typed(Table& table) {
  add_packed<T, 1>(table);
  add_packed<T, kWide<T>>(table);
  add(table, 0, confidence_merge_kernel<T>);
  add(table, 0, route_kernel<T>);
  add(table, 32, block_attention_simple_kernel<T>);
  if constexpr (sizeof(T) == 2) {
    add_attention<AttentionShape<T, 64>>(table);
    add_attention<AttentionShape<T, 128>>(table);
  }
}

Table all_kernels() {
  Table table;
  add_typed<float>(table);
  add_typed<BFloat16>(table);
  add_typed<Float16>(table);
  add(table, 0, combine_places_kernel);
  add(table, 64, route_order_kernel);
  add(table, 0, suffix_gather_kernel);
  add(table, 0, uniform_kernel);
  add(table, 4224, unmask_kernel);
  return table;
}

}  // namespace
}  // namespace dpad::cuda

namespace dpad::test {

const std::map<std::string, EmulatedKernel>& emulated_kernels() {
  static const std::map<std::string, EmulatedKernel> table = cuda::all_kernels();
  return table;
}

}  // namespace dpad::test
