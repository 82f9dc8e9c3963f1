// Soft categorical values and their gradients: the CPU kernels of `gumbel_softmax` in reference.py
// and of estimators/softmax.py, same names, same order.
#include "rows.h"

namespace {

using namespace rows;

// Write J(y) g times a factor, y in proportion to weight(i). J(y) sends constants to 0: relative to g of the
// likeliest class a row that is all but certain loses no digits.
template <class T, bool Across, class S, class F>
void pull(const Row<T, Across, S>& r, Vec<T> peak, Vec<T> times, const F& weight) {
  const Vec<T> none = broadcast(-std::numeric_limits<T>::infinity());
  const Vec<T> likeliest =
      r.t.most([&](int64_t i) { return r.x[i] == peak ? r.grad[i] : none; });
  const auto [total, weighted] = r.t.template sums<2>([&](int64_t i) {
    const Vec<T> w = weight(i);
    r.t.put(r.scratch[0], i, w);
    return std::array<Vec<T>, 2>{w, w * (r.grad[i] - likeliest)};
  });
  const Vec<T> mean = weighted / total, factor = times / total;
  for (int64_t i = 0; i < r.t.size(); ++i)
    r.out.put(i, r.t.at(r.scratch[0], i) * factor * ((r.grad[i] - likeliest) - mean));
}

// softmax((x + G) / tau). With E = exp(-G), which is Exp(1), its weights are (e^x / E)^(1 / tau).
struct GumbelSoftmax {
  static constexpr bool of_logits = true, of_grad = false;
  double tau;
  template <class T, bool Across, class S>
  void operator()(const Row<T, Across, S>& r) const {
    T* w = r.scratch[0];
    const bool product = tau == 1 || tau == 0.5;  // in range as it is, else by its logarithm
    const Vec<T> peak = r.peak();
    r.t.with_uniforms(r.seed, r.position, philox::kConditional, [&](int64_t i, Vec<T> u) {
      const Vec<T> x = r.x[i] - peak, e = -log1m(u);
      r.t.put(w, i, product ? exp(x) / e : x - log_normal(e));
    });
    const T inverse = T(1) / T(tau);
    const Vec<T> top = r.t.most([&](int64_t i) { return r.t.at(w, i); });
    const auto [total] = r.t.template sums<1>([&](int64_t i) {
      Vec<T> v = r.t.at(w, i);
      if (tau == 0.5) v = v * v;
      if (!product) v = exp((v - top) * inverse);
      r.t.put(w, i, v);
      return std::array<Vec<T>, 1>{v};
    });
    const Vec<T> scale = T(1) / total;
    for (int64_t i = 0; i < r.t.size(); ++i) r.out.put(i, r.t.at(w, i) * scale);
  }
};

struct SoftmaxBackward {
  static constexpr bool of_logits = false, of_grad = true;
  double tau;
  template <class T, bool Across, class S>
  void operator()(const Row<T, Across, S>& r) const {
    pull(r, r.peak(), broadcast(T(1) / T(tau)), [&](int64_t i) { return r.x[i]; });
  }
};

struct SoftmaxGradient {
  static constexpr bool of_logits = true, of_grad = true;
  double tau, scale;
  template <class T, bool Across, class S>
  void operator()(const Row<T, Across, S>& r) const {
    // Infinities share the whole weight, and nothing moves it. The difference of two would be NaN.
    constexpr T most = std::numeric_limits<T>::max();
    const Vec<T> peak = r.peak(), top = at_most(most, peak), zero{};
    const T inverse = T(1) / T(tau);
    const Vec<T> times = select(less_equal(peak, top), zero + T(scale) * inverse, zero);
    pull(r, peak, times, [&](int64_t i) { return exp(at_most(T(0), (r.x[i] - top) * inverse)); });
  }
};

Tensor gumbel_softmax(const Tensor& logits, double tau, const Tensor& seed, int64_t offset) {
  check_rows("logits", logits);
  return over(GumbelSoftmax{tau}, logits, logits, key_of(seed, offset), offset);
}

Tensor softmax_backward(const Tensor& y, const Tensor& grad, double tau) {
  check_rows("y", y);
  check_grad(grad, y);
  return over(SoftmaxBackward{tau}, y, grad);
}

Tensor softmax_gradient(const Tensor& x, const Tensor& grad, double tau, double scale) {
  check_rows("x", x);
  check_grad(grad, x);
  return over(SoftmaxGradient{tau, scale}, x, grad);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&gumbel_softmax>(m, "gumbel_softmax");
  implement<&softmax_backward>(m, "softmax_backward");
  implement<&softmax_gradient>(m, "softmax_gradient");
}
