// Registration of a binding under its operator's name, which every failure then carries.
#pragma once

#include <cstddef>
#include <exception>
#include <new>
#include <stdexcept>
#include <string_view>

#include "torch/checks.h"

namespace dpad {

// The name of an operator as a template argument.
template <size_t N>
struct OpName {
  char text[N];
  consteval OpName(const char (&name)[N]) {  // implicit, so that a literal is enough
    for (size_t i = 0; i < N; ++i) text[i] = name[i];
  }
};

// A boxed binding. Checks name the operator themselves; here what the standard library and torch
// throw, mostly because memory ran out, is told under its name, also while arguments are unboxed.
template <OpName name, auto boxed>
void named(StableIValue* stack, uint64_t arguments, uint64_t results) {
  const Checks check(name.text);
  try {
    boxed(stack, arguments, results);
  } catch (const std::bad_alloc&) {
    check.out_of_memory("its working memory", -1);
  } catch (const std::length_error&) {
    check.out_of_memory("its working memory", -1);
  } catch (const std::exception& error) {
    if (std::string_view(error.what()).starts_with("dpad::")) throw;
    check.fail(error.what());
  }
}

}  // namespace dpad

#define DPAD_IMPL(name, op) m.impl(#name, &dpad::named<#name, TORCH_BOX(&dpad::op)>)
