// Hard forwards: the CPU kernels of reference.py, same names, same order.
#include "../../surrogates/window.h"

namespace {

using namespace window;

// f(x, threshold) with the threshold rounded to the dtype of x first, as torch compares; x where
// that is NaN. What is dense in another order of its dimensions keeps that order.
template <class F>
Tensor map(const Tensor& unordered, double threshold, const F& f) {
  check_floating("x", unordered);
  const bool dense = !unordered.is_contiguous() && is_dense(unordered);
  const Tensor x = dense ? unordered : ordered(unordered);
  Tensor y = dense ? torch::stable::empty_like(x) : fresh_like(x);
  const double at = rounded(threshold, x);
  elementwise(std::tuple{Numbers{x}}, std::tuple{ExactNumbers{y}},
              [=](auto v) { return unless_nan(v, f(v, Lane<decltype(v)>(at))); });
  return y;
}

template <class V>
ALWAYS_INLINE V sign_of(V x) {
  return where<V>(less_equal(V{}, x), 1, -1);
}

template <class V, class T>
ALWAYS_INLINE V step(V x, T threshold) {
  return where<V>(less(V{} + threshold, x), 1, 0);
}

Tensor sign(const Tensor& x) {
  return map(x, 0, [](auto v, auto) { return sign_of(v); });
}
Tensor heaviside(const Tensor& x, double threshold) {
  return map(x, threshold, [](auto v, auto at) { return step(v, at); });
}
Tensor ternary(const Tensor& x, double threshold) {
  return map(x, threshold, [](auto v, auto at) { return step(v, at) - step(-v, at); });
}

// The sign and the window's bits in one pass over x.
std::tuple<Tensor, Tensor> sign_and_window(const Tensor& unordered, double centre, double bound,
                                           bool includes_bound, bool fixed) {
  check_floating("x", unordered);
  const Tensor x = ordered(unordered), y = fresh_like(x);
  const Tensor bits = with_window(x, fixed, std::tuple{ExactNumbers{y}}, [=](auto v) {
    return std::tuple(unless_nan(v, sign_of(v)), inside(v, centre, bound, includes_bound));
  });
  return {y, bits};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&sign>(m, "sign");
  implement<&sign_and_window>(m, "sign_and_window");
  implement<&heaviside>(m, "heaviside");
  implement<&ternary>(m, "ternary");
}
