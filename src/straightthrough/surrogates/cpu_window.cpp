// Rules of two values, one bit an element: the CPU kernels of window.py, same names, same order.
#include "window.h"

namespace {

using namespace window;

Tensor window_bits(const Tensor& unordered, double centre, double bound, bool includes_bound,
                   bool fixed) {
  check_floating("x", unordered);
  return with_window(ordered(unordered), fixed, std::tuple<>{}, [=](auto v) {
    return std::tuple(inside(v, centre, bound, includes_bound));
  });
}

Tensor window_gradient(const Tensor& unordered, const Tensor& truth, double inner, double outer) {
  check_floating("grad", unordered);
  const int64_t bytes = bytes_of_bits(unordered.numel());
  const bool with_nan = dtype_of(truth) == kUInt8 && truth.numel() == 2 * bytes;
  const Tensor grad = ordered(unordered), bits = packed("bits", truth, unordered, with_nan ? 2 : 1);
  Tensor result = fresh_like(grad);
  const double largest = std::max(std::abs(inner), std::abs(outer));
  const auto slope = [=](auto g, auto truth) {
    return g * where<decltype(g)>(truth, inner, outer);
  };
  const auto write = [&](const auto& outputs) {
    if (!with_nan) return elementwise(std::tuple{Numbers{grad}, Bits{bits}}, outputs, slope);
    elementwise(std::tuple{Numbers{grad}, Bits{bits}, Bits{bits, bytes}}, outputs,
                [=](auto g, auto truth, auto nan) {
                  using V = decltype(g);
                  const V none = broadcast(std::numeric_limits<Lane<V>>::quiet_NaN());
                  return select(nan, none, slope(g, truth));
                });
  };
  if (inner == 1 && outer == 0) {
    write(std::tuple{ExactNumbers{result}});
  } else {
    write(std::tuple{Gradient{result, largest > 1}});
  }
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&window_bits>(m, "window_bits");
  implement<&window_gradient>(m, "window_gradient");
}
