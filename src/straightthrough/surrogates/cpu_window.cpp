// Rules of two values, one bit an element: the CPU kernels of window.py, same names, same order.
#include "window.h"

namespace {

using namespace window;

Tensor window_bits(const Tensor& given, double centre, double bound, bool closed) {
  check_floating("x", given);
  const Tensor x = ordered(given);
  Tensor bits = fresh_bits(x.numel());
  uint8_t* to = out<uint8_t>(bits);
  dispatch(dtype_of(x), [&](auto compute, auto stored) {
    using T = decltype(compute);
    const Input<decltype(stored)> from(x);
    over_elements(x.numel(), kGrain, [=](int64_t begin, int64_t end) {
      over_vectors<T>(begin, end, [=](int64_t i, auto n) {
        const Vec<T> v = from.get(i, n, std::numeric_limits<T>::quiet_NaN());
        store_bits<T>(to, i, inside(v, centre, bound, closed), n);
      });
    });
  });
  return bits;
}

Tensor window_gradient(const Tensor& given, const Tensor& truth, double inner, double outer) {
  check_floating("grad", given);
  const Tensor grad = ordered(given), bits = packed("bits", truth, given);
  Tensor result = fresh_like(grad);
  const bool steep = std::max(std::abs(inner), std::abs(outer)) > 1;
  const uint8_t* bit = in<uint8_t>(bits);
  dispatch(dtype_of(grad), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const Input<S> g(grad);
    const Result<S> to(result);
    over_elements(grad.numel(), kGrain, [=](int64_t begin, int64_t end) {
      over_vectors<T>(begin, end, [=](int64_t i, auto n) {
        const Vec<T> slope = where<Vec<T>>(load_bits<T>(bit, i, n), inner, outer);
        const Vec<T> own = g.get(i, n, T(0)) * slope;
        to.put(i, steep ? saturated<S>(own) : own, n);
      });
    });
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&window_bits>(m, "window_bits");
  implement<&window_gradient>(m, "window_gradient");
}
