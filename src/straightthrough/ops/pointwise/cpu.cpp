// Hard forwards: the CPU kernels of reference.py, same names, same order.
#include "../../surrogates/window.h"

namespace {

using namespace window;

// f(x, threshold) with the threshold rounded to the dtype of x first, as torch compares. What is
// dense in another order of its dimensions keeps that order.
template <class F>
Tensor map(const Tensor& given, double threshold, const F& f) {
  check_floating("x", given);
  const bool dense = !given.is_contiguous() && is_dense(given);
  const Tensor x = dense ? given : ordered(given);
  Tensor y = dense ? torch::stable::empty_like(x) : fresh_like(x);
  dispatch(dtype_of(x), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const T at = widen(narrow<S>(T(threshold)));
    const Input<S> from(x);
    const Result<S> to(y);
    over_elements(x.numel(), kGrain, [=](int64_t begin, int64_t end) {
      over_vectors<T>(begin, end, [=](int64_t i, auto n) {
        to.put(i, f(from.get(i, n, T(0)), at), n);
      });
    });
  });
  return y;
}

const auto sign_of = [](auto x, auto zero) {
  return where<decltype(x)>(less_equal(decltype(x){} + zero, x), 1, -1);
};

template <class V, class T>
ALWAYS_INLINE V step(V x, T threshold) {
  return where<V>(less(V{} + threshold, x), 1, 0);
}

Tensor sign(const Tensor& x) {
  return map(x, 0, sign_of);
}
Tensor heaviside(const Tensor& x, double threshold) {
  return map(x, threshold, [](auto v, auto at) { return step(v, at); });
}
Tensor heaviside_or_nan(const Tensor& x, double threshold) {
  return map(x, threshold, [](auto v, auto at) { return v == v ? step(v, at) : v; });
}
Tensor ternary(const Tensor& x, double threshold) {
  return map(x, threshold, [](auto v, auto at) { return step(v, at) - step(-v, at); });
}

// The sign and the window's bits in one pass over x.
std::tuple<Tensor, Tensor> sign_and_window(const Tensor& given, double centre, double bound,
                                           bool closed) {
  check_floating("x", given);
  const Tensor x = ordered(given);
  Tensor y = fresh_like(x), bits = fresh_bits(x.numel());
  uint8_t* bit = out<uint8_t>(bits);
  dispatch(dtype_of(x), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const Input<S> from(x);
    const Result<S> to(y);
    over_elements(x.numel(), kGrain, [=](int64_t begin, int64_t end) {
      over_vectors<T>(begin, end, [=](int64_t i, auto n) {
        const Vec<T> v = from.get(i, n, std::numeric_limits<T>::quiet_NaN());
        to.put(i, sign_of(v, T(0)), n);
        store_bits<T>(bit, i, inside(v, centre, bound, closed), n);
      });
    });
  });
  return {y, bits};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&sign>(m, "sign");
  implement<&sign_and_window>(m, "sign_and_window");
  implement<&heaviside>(m, "heaviside");
  implement<&heaviside_or_nan>(m, "heaviside_or_nan");
  implement<&ternary>(m, "ternary");
}
