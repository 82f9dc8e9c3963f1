// The softmax's gradients: the CPU kernels of softmax.py, same names, same order.
#include "../core/native/rows.h"

namespace {

using namespace rows;

// Write J(y) g times a factor, y in proportion to weight(i). J(y) sends constants to 0: relative to
// g of the likeliest class a row that is all but certain loses no digits.
template <class T, bool Across, class S, class F>
void pull(const Row<T, Across, S>& r, Vec<T> peak, Vec<T> times, const F& weight) {
  const Vec<T> none = broadcast(-std::numeric_limits<T>::infinity());
  const Vec<T> likeliest =
      r.t.highest([&](int64_t i) { return r.x(i) == peak ? r.grad(i) : none; });
  const auto [total, weighted] = r.t.template sums<2>([&](int64_t i) {
    const Vec<T> w = weight(i);
    r.t.put(r.scratch[0], i, w);
    return std::array<Vec<T>, 2>{w, w * (r.grad(i) - likeliest)};
  });
  const Vec<T> mean = weighted / total, factor = times / total;
  for (int64_t i = 0; i < r.t.size(); ++i)
    r.put(i, r.t.at(r.scratch[0], i) * factor * ((r.grad(i) - likeliest) - mean));
}

struct SoftmaxOfValue {
  static constexpr bool of_logits = false, of_grad = true;
  double tau;
  template <class T, bool Across, class S>
  void operator()(const Row<T, Across, S>& r) const {
    pull(r, r.peak(), broadcast(T(1) / T(tau)), [&](int64_t i) { return r.x(i); });
  }
};

struct SoftmaxOfLogits {
  static constexpr bool of_logits = true, of_grad = true;
  double tau, scale;
  template <class T, bool Across, class S>
  void operator()(const Row<T, Across, S>& r) const {
    // Infinities share the whole weight, and nothing moves it. The difference of two would be NaN.
    constexpr T limit = std::numeric_limits<T>::max();
    const Vec<T> peak = r.peak(), top = at_most(limit, peak), zero{};
    const T inverse = T(1) / T(tau);
    const Vec<T> times = select(less_equal(peak, top), zero + T(scale) * inverse, zero);
    pull(r, peak, times, [&](int64_t i) { return exp(at_most(T(0), (r.x(i) - top) * inverse)); });
  }
};

Tensor softmax_backward_of_value(const Tensor& y, const Tensor& grad, double tau) {
  check_rows("y", y);
  check_grad(grad, y);
  return over_rows(SoftmaxOfValue{tau}, y, grad);
}

Tensor softmax_backward_of_logits(const Tensor& x, const Tensor& grad, double tau, double scale) {
  check_rows("x", x);
  check_grad(grad, x);
  return over_rows(SoftmaxOfLogits{tau, scale}, x, grad);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&softmax_backward_of_value>(m, "softmax_backward_of_value");
  implement<&softmax_backward_of_logits>(m, "softmax_backward_of_logits");
}
