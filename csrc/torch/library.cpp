// Every schema of the namespace `dpad`, in one list; CPU registrations; the Python module `_C`.
//
// An operator whose name ends in `_` writes the arguments marked (a!) and returns nothing that
// aliases them. Sizes that vary from call to call are SymInt, so that they do not recompile.
#include <Python.h>

#include "core/names.h"
#include "torch/named.h"
#include "torch/ops.h"

// Number of the schema list: raised when an operator's meaning or arguments change.
#define DPAD_SCHEMA_VERSION "6"

STABLE_TORCH_LIBRARY(dpad, m) {
  // Planning (CPU): tables, kept suffix, rows of a pass.
  m.def(
      "suffix_table(str kind, str grid, SymInt window, float decay, float scale, float count, "
      "SymInt near, SymInt length) -> Tensor");
  m.def("transfer_schedule(SymInt masks, SymInt steps) -> Tensor");
  m.def(
      "suffix_sample(Tensor seed, Tensor row_key, Tensor block, Tensor redraw, Tensor end, "
      "Tensor total, str kind, str grid, SymInt window, float decay, float scale, float count, "
      "SymInt near, bool keep_last, SymInt length) -> (Tensor, Tensor)");
  m.def(
      "plan_pass(Tensor start, Tensor end, Tensor kept, Tensor kept_count, Tensor scope, "
      "Tensor first, Tensor first_target, Tensor unseen, Tensor predecessor, int shift, "
      "SymInt block_length) -> (Tensor, Tensor, Tensor, Tensor)");

  // A pass.
  m.def(
      "suffix_gather(Tensor canvas, Tensor canvas_row, Tensor q_offsets, Tensor position, "
      "Tensor? hidden_until, SymInt mask_id) -> Tensor");
  m.def(
      "rope_kv_write_(Tensor q, Tensor k, Tensor v, Tensor q_position, Tensor position, "
      "Tensor slot, Tensor q_offsets, Tensor kv_start, Tensor cos, Tensor sin, "
      "Tensor(a!) k_cache, Tensor(b!) v_cache, bool full_precision) -> Tensor");
  m.def(
      "block_attention(Tensor q, Tensor k_cache, Tensor v_cache, Tensor q_offsets, "
      "Tensor kv_start, Tensor n_keys, float scale, Tensor? key_mask, Tensor? key_limit) "
      "-> Tensor");
  m.def("add_rms_norm_(Tensor(a!) residual, Tensor? delta, Tensor weight, float eps) -> Tensor");
  m.def("swiglu(Tensor gate, Tensor up) -> Tensor");
  m.def("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor");
  m.def(
      "int8_linear(Tensor x, Tensor weight, Tensor scale, Tensor? bias, Tensor? smoothing) "
      "-> Tensor");

  // A routed MLP.
  m.def(
      "route(Tensor logits, Tensor? bias, SymInt top_k, str score, bool normalise, SymInt groups, "
      "SymInt top_groups, float scaling) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("grouped_linear(Tensor x, Tensor weight, Tensor offsets) -> Tensor");
  m.def("grouped_swiglu(Tensor x, Tensor row, Tensor gate, Tensor up, Tensor offsets) -> Tensor");
  m.def(
      "combine(Tensor y, Tensor order, Tensor weight, bool full_precision, bool round_weights) "
      "-> Tensor");

  // Sampling.
  m.def(
      "confidence(Tensor logits, Tensor l_offsets, Tensor position, Tensor rng, "
      "Tensor temperature, Tensor suppress, Tensor exclude, Tensor? noise, bool round_to_dtype) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
  m.def("uniform(Tensor rng, Tensor l_offsets, Tensor position) -> Tensor");
  m.def(
      "unmask_(Tensor(a!) canvas, Tensor(b!) committed_at, Tensor(c!) committed, "
      "Tensor(d!) masks_left, Tensor(e!) status, Tensor(f!) forward, Tensor canvas_row, "
      "Tensor l_offsets, Tensor position, Tensor token, Tensor score, Tensor probability, "
      "Tensor rule_value, Tensor quota, Tensor length, Tensor end_ids, int rule, int early_stop, "
      "SymInt mask_id, SymInt fill_id) -> ()");

  // Build and run-time information.
  m.def("build_info() -> str");
  m.def("cpu_isa() -> str");
  m.def("set_cpu_isa(str name) -> ()");
  m.def("cpu_extensions() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(dpad, CompositeExplicitAutograd, m) {
  DPAD_IMPL(suffix_table, suffix_table_op);
  DPAD_IMPL(transfer_schedule, transfer_schedule_op);
  DPAD_IMPL(build_info, build_info_op);
  DPAD_IMPL(cpu_isa, cpu_isa_op);
  DPAD_IMPL(set_cpu_isa, set_cpu_isa_op);
  DPAD_IMPL(cpu_extensions, cpu_extensions_op);
}

STABLE_TORCH_LIBRARY_IMPL(dpad, CPU, m) {
  DPAD_IMPL(suffix_sample, suffix_sample_op);
  DPAD_IMPL(plan_pass, plan_pass_op);
  DPAD_IMPL(suffix_gather, suffix_gather_op);
  DPAD_IMPL(rope_kv_write_, rope_kv_write_op);
  DPAD_IMPL(block_attention, block_attention_op);
  DPAD_IMPL(add_rms_norm_, add_rms_norm_op);
  DPAD_IMPL(swiglu, swiglu_op);
  DPAD_IMPL(linear, linear_op);
  DPAD_IMPL(int8_linear, int8_linear_op);
  DPAD_IMPL(route, route_op);
  DPAD_IMPL(grouped_linear, grouped_linear_op);
  DPAD_IMPL(grouped_swiglu, grouped_swiglu_op);
  DPAD_IMPL(combine, combine_op);
  DPAD_IMPL(confidence, confidence_op);
  DPAD_IMPL(uniform, uniform_op);
  DPAD_IMPL(unmask_, unmask_op);
}

namespace {
PyModuleDef module_definition = {PyModuleDef_HEAD_INIT,
                                 "_C",
                                 "Registers the operators of torch.ops.dpad.",
                                 -1,
                                 nullptr,
                                 nullptr,
                                 nullptr,
                                 nullptr,
                                 nullptr};

// The names of an enumeration in the order of its numbers, separated by spaces.
template <class Names>
std::string joined(const Names& names) {
  std::string text;
  for (const char* name : names) text += (text.empty() ? "" : " ") + std::string(name);
  return text;
}
}  // namespace

PyMODINIT_FUNC PyInit__C() {
  PyObject* module = PyModule_Create(&module_definition);
  if (module == nullptr) return nullptr;
  const std::pair<const char*, std::string> constants[] = {{"schema_version", DPAD_SCHEMA_VERSION},
                                                           {"RULES", joined(dpad::kRuleNames)},
                                                           {"SCOPES", joined(dpad::kScopeNames)},
                                                           {"STOPS", joined(dpad::kStopNames)},
                                                           {"STATUS", joined(dpad::kStatusNames)}};
  for (const auto& [name, text] : constants) {
    if (PyModule_AddStringConstant(module, name, text.c_str()) == 0) continue;
    Py_DECREF(module);
    return nullptr;
  }
  return module;
}
