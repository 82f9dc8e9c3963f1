// Rules of two values, one bit an element: the CPU kernels of window.py, same names, same order.
#include "window.h"

namespace {

using namespace window;

Tensor window_bits(const Tensor& given, double centre, double bound, bool includes_bound) {
  check_floating("x", given);
  const Tensor x = ordered(given);
  Tensor bits = fresh_bits(x.numel());
  elementwise(std::tuple{Numbers{x}}, std::tuple{Bits{bits}},
              [=](auto v) { return inside(v, centre, bound, includes_bound); });
  return bits;
}

Tensor window_gradient(const Tensor& given, const Tensor& truth, double inner, double outer) {
  check_floating("grad", given);
  const Tensor grad = ordered(given), bits = packed("bits", truth, given);
  Tensor result = fresh_like(grad);
  const bool steep = std::max(std::abs(inner), std::abs(outer)) > 1;
  elementwise(std::tuple{Numbers{grad}, Bits{bits}}, std::tuple{Gradient{result, steep}},
              [=](auto g, auto truth) { return g * where<decltype(g)>(truth, inner, outer); });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&window_bits>(m, "window_bits");
  implement<&window_gradient>(m, "window_gradient");
}
