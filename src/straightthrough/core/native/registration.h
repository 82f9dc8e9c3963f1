// Kernels as torch operators: `implement<&reinmax>(m, "reinmax")` registers the function and, where
// it takes doubles, its form whose numbers are tensors, which compiled code calls with those that
// move.
#pragma once
#include <torch/csrc/stable/library.h>

#include "arguments.h"

namespace operators {

template <auto function>
const char* name_of = nullptr;

// `called` as torch calls it; what it refuses, it refuses in the operator's name.
template <auto function, auto called = function>
void boxed(StableIValue* stack, uint64_t inputs, uint64_t outputs) {
  try {
    TORCH_BOX(called)(stack, inputs, outputs);
  } catch (const std::runtime_error& error) {
    refuse("straightthrough::", name_of<function>, ": ", error.what());
  }
}

inline double number(size_t place, const Tensor& x) {
  if (!x.is_cpu() || dtype_of(x) != kFloat64 || x.dim() != 0)
    refuse("argument ", place, " must be a number: Double of shape [] on the CPU, got ",
           described(x));
  return *in<double>(x);
}

template <class T>
constexpr bool is_number = std::is_same_v<T, double>;

// The function that takes a tensor where `function` takes a double.
template <auto function>
struct OfTensors;
template <class Result, class... Given, Result (*function)(Given...)>
struct OfTensors<function> {
  static constexpr bool differs = (is_number<Given> || ...);

  template <class T>
  using Taken = std::conditional_t<is_number<T>, const Tensor&, T>;

  static Result call(Taken<Given>... taken) {
    return read(std::index_sequence_for<Given...>(), taken...);
  }

 private:
  template <size_t... i>
  static Result read(std::index_sequence<i...>, Taken<Given>... taken) {
    return function(argument<Given>(i + 1, taken)...);
  }
  template <class T>
  static T argument([[maybe_unused]] size_t place, Taken<T> taken) {
    if constexpr (is_number<T>)
      return number(place, taken);
    else
      return taken;
  }
};

template <auto function>
void implement(torch::stable::detail::StableLibrary& library, const char* name) {
  using Numbers = OfTensors<function>;
  name_of<function> = name;
  library.impl(name, &boxed<function>);
  if constexpr (Numbers::differs)
    library.impl((std::string(name) + ".numbers").c_str(), &boxed<function, &Numbers::call>);
}

}  // namespace operators
