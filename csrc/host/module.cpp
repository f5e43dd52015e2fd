// The host module: a window on csrc/core for people at a prompt. It never sees a tensor, and
// decoding does not need it.
#include <fmt/format.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "core/names.h"
#include "core/plan.h"
#include "core/schedule.h"
#include "core/suffix.h"

namespace py = pybind11;

namespace dpad {
namespace {

SuffixSpec make_spec(const std::string& kind, int64_t window, double decay, double scale,
                     double count, int64_t near, bool keep_last, const std::string& grid) {
  SuffixSpec spec;
  const int64_t index = number_of(kSuffixNames, kind.c_str());
  if (index < 0) throw py::value_error(fmt::format("kind = '{}' is not a suffix kind", kind));
  if (grid != "repo" && grid != "paper") {
    throw py::value_error(fmt::format("grid = '{}': expected repo or paper", grid));
  }
  spec.kind = static_cast<SuffixKind>(index);
  spec.grid = grid == "repo" ? SuffixGrid::kRepo : SuffixGrid::kPaper;
  spec.window = window;
  spec.decay = decay;
  spec.scale = scale;
  spec.count = count;
  spec.near = near;
  spec.keep_last = keep_last;
  if (const Error error = validate(spec)) throw py::value_error(describe(error));
  return spec;
}

std::string preview(int64_t start, int64_t end, const std::vector<int64_t>& kept,
                    const std::string& scope, int64_t shift) {
  const int64_t number = number_of(kScopeNames, scope.c_str()), none = 0, joins = 1;
  if (number < 0)
    throw py::value_error(fmt::format("scope = '{}': expected all, suffix or block", scope));
  const auto count = static_cast<int64_t>(kept.size());
  const PlanInput input{&start, &end,  kept.data(), count, &count, &number, &none,
                        &start, &none, &joins,      1,     shift,  0};
  if (const Error error = validate(input)) throw py::value_error(describe(error));
  const Plan plan = plan_pass(input);
  std::string text = fmt::format("{} rows computed, {} slots visible, {} logit rows\n",
                                 plan.slot.size(), plan.n_keys[0], plan.logit_row.size());
  for (size_t row = 0; row < plan.slot.size(); ++row) {
    text += fmt::format("row {:>5}  slot {:>5}  position {:>5}\n", row, plan.slot[row],
                        plan.position[row]);
  }
  return text;
}

}  // namespace
}  // namespace dpad

PYBIND11_MODULE(_host, m) {
  using namespace dpad;
  m.doc() = "Planning functions of dpad's core, without tensors.";
  const auto kind = py::arg("kind");
  m.def(
      "expected_kept",
      [](const std::string& kind, int64_t remaining, int64_t window, double decay, double scale,
         double count, int64_t near, bool keep_last, const std::string& grid) {
        if (const Error error = validate_length("remaining", remaining))
          throw py::value_error(describe(error));
        return expected_kept(make_spec(kind, window, decay, scale, count, near, keep_last, grid),
                             remaining);
      },
      kind, py::arg("remaining"), py::arg("window") = 0, py::arg("decay") = 0.0,
      py::arg("scale") = 0.0, py::arg("count") = 0.0, py::arg("near") = 0,
      py::arg("keep_last") = false, py::arg("grid") = "repo",
      "Expected number of kept suffix positions when `remaining` are left.");
  m.def(
      "scale_for_count",
      [](double count, int64_t window, double decay, const std::string& grid) {
        return resolved_scale(make_spec("gaussian", window, decay, -1, count, 0, false, grid));
      },
      py::arg("count"), py::arg("window"), py::arg("decay") = 3.0, py::arg("grid") = "repo",
      "The gaussian's scale `a` at which `count` positions of the window are expected.");
  m.def("plan_preview", &preview, py::arg("start"), py::arg("end"), py::arg("kept"),
        py::arg("scope") = "all", py::arg("shift") = 0, "Text table of the rows of one pass.");
}
