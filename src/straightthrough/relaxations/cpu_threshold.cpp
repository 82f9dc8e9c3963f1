// The gradient of sigmoids that share a threshold: the CPU kernel of threshold.py.
#include "level.h"

namespace {

using namespace level;

struct LogisticBackward {
  static constexpr bool of_logits = true, of_grad = true;
  int64_t k;
  double tau;

  template <class T, bool Across, class S>
  void operator()(const Row<T, Across, S>& r) const {
    const T infinity = std::numeric_limits<T>::infinity(), inverse = T(1) / T(tau);
    const auto [least, after] = neighbours(r, k);
    const Vec<T> zero{}, nan = zero + std::numeric_limits<T>::quiet_NaN();
    const Vec<T> gap = (after - least) * inverse;
    const IntVec<T> certain = ~(absolute(gap) < infinity);  // NaN too
    T* z = r.scratch[0];
    T* f = r.scratch[1];
    IntVec<T> unordered{};
    for (int64_t i = 0; i < r.t.size(); ++i) {
      unordered |= r.x(i) != r.x(i);
      r.t.put(z, i, (r.x(i) - least) * inverse);
    }
    unordered = r.t.any(unordered);
    const Vec<T> b = logistic_level(r.t, z, k, certain ? zero : gap, certain);
    for (int64_t i = 0; i < r.t.size(); ++i)
      r.t.put(f, i, sigmoid(r.t.at(z, i) - b).slope);
    // The Jacobian sends constants to 0: relative to g of the entry nearest to the threshold a row
    // that has no other near it loses no digits.
    const Vec<T> peak = r.t.highest([&](int64_t i) { return r.t.at(f, i); });
    const Vec<T> likeliest = r.t.highest(
        [&](int64_t i) { return r.t.at(f, i) == peak ? r.grad(i) : zero - infinity; });
    const auto [total, weighted] = r.t.template sums<2>([&](int64_t i) {
      const Vec<T> w = r.t.at(f, i);
      return std::array<Vec<T>, 2>{w, w * (r.grad(i) - likeliest)};
    });
    const Vec<T> mean = total > zero ? weighted / total : zero;
    for (int64_t i = 0; i < r.t.size(); ++i) {
      const Vec<T> pulled = r.t.at(f, i) * inverse * ((r.grad(i) - likeliest) - mean);
      r.put(i, unordered ? nan : (certain ? zero : pulled));
    }
  }
};

Tensor logistic_backward(const Tensor& x, const Tensor& grad, int64_t k, double tau) {
  check_rows("x", x);
  check_grad(grad, x);
  const int64_t classes = x.sizes().back();
  if (k < 1 || k > classes) refuse("k must lie in [1, ", classes, "], got ", k);
  return over_rows(LogisticBackward{k, tau}, x, grad);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&logistic_backward>(m, "logistic_backward");
}
