// The concrete gates: the CPU kernels of reference.py, same names, same order.
#include "draw.h"

namespace {

using namespace draws;

template <class T>
constexpr T kLargest = std::numeric_limits<T>::max();

// The logit of x and its derivative, x being a logit already or a probability.
template <class V>
ALWAYS_INLINE V logit(V x, bool of_probs) {
  using T = Lane<V>;
  if (!of_probs) return x;
  const V complement = T(1) - x, infinity = broadcast(std::numeric_limits<T>::infinity());
  const V none = broadcast(std::numeric_limits<T>::quiet_NaN());
  return complement > T(0) ? log(x) - log1m(x) : (complement == T(0) ? infinity : none);
}
template <class V>
ALWAYS_INLINE V logit_slope(V p) {
  using T = Lane<V>;
  const V variance = p * (T(1) - p);
  const T tiny = std::numeric_limits<T>::min();
  return T(1) / (variance < tiny ? V{} + tiny : variance);
}

template <class T>
struct Gate {
  T inverse_tau, gamma, stretch;
  bool of_probs;

  Gate(double tau, double gamma, double zeta, bool of_probs)
      : inverse_tau(1 / tau), gamma(gamma), stretch(zeta - gamma), of_probs(of_probs) {}

  ALWAYS_INLINE Vec<T> soft_value(Vec<T> x, Vec<T> noise) const {
    const Vec<T> zero{}, one = broadcast(T(1));
    const auto s = sigmoid((logit(x, of_probs) + noise) * inverse_tau);
    const Vec<T> gate = s.value * stretch + gamma;
    return gate < T(0) ? zero : (gate > T(1) ? one : gate);
  }
  ALWAYS_INLINE Vec<T> slope(Vec<T> x, Vec<T> noise) const {
    const auto s = sigmoid((logit(x, of_probs) + noise) * inverse_tau);
    const Vec<T> gate = s.value * stretch + gamma;
    Vec<T> inside = s.slope * (stretch * inverse_tau);
    if (of_probs) inside = at_most(kLargest<T>, inside * logit_slope(x));
    return (gate < T(0)) | (gate > T(1)) ? Vec<T>{} : inside;
  }
};

template <class T, class F>
void with_logistic(int64_t begin, int64_t end, uint64_t seed, int64_t offset, const F& f) {
  const auto make = [=](int64_t group) {
    auto noise = philox::element_uniforms<T>(seed, group, philox::kDraw);
    for (auto& u : noise) u = log_normal((T(1) - u) / u);
    return noise;
  };
  with_noise<T>(begin, end, offset, make, f);
}

Tensor concrete(const Tensor& unordered, double tau, double gamma, double zeta, bool hard,
                bool of_probs, const Tensor& seed, int64_t offset) {
  check_floating("x", unordered);
  const uint64_t key = key_of(seed, offset);
  const Tensor x = ordered(unordered);
  Tensor result = fresh_like(x);
  dispatch(dtype_of(x), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const Gate<T> gate(tau, gamma, zeta, of_probs);
    const Reader<T, S> from{in<S>(x), T(0)};
    const Writer<T, S> to{out<S>(result)};
    const BinaryDraws<T> draw{key, offset, of_probs};
    const auto open = [=](int64_t i, int64_t n, Vec<T> least) {
      to.next(i, draw(i, from.next(i, n), least).value, n);
    };
    const auto relax = [=](int64_t i, int64_t n, Vec<T> noise) {
      to.next(i, gate.soft_value(from.next(i, n), noise), n);
    };
    over_elements(x.numel(), kNoisyGrain, [=](int64_t begin, int64_t end) {
      if (hard) return draw.each(begin, end, open);
      with_logistic<T>(begin, end, key, offset, relax);
    });
  });
  return result;
}

Tensor concrete_backward(const Tensor& unordered, const Tensor& unordered_grad, double tau,
                         double gamma, double zeta, bool, bool of_probs, const Tensor& seed,
                         int64_t offset) {
  check_floating("x", unordered);
  const uint64_t key = key_of(seed, offset);
  const Tensor x = ordered(unordered), grad = ordered_grad(unordered_grad, unordered);
  Tensor result = fresh_like(x);
  dispatch(dtype_of(x), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const Gate<T> gate(tau, gamma, zeta, of_probs);
    const Reader<T, S> from{in<S>(x), T(0)}, g{in<S>(grad), T(0)};
    const Writer<T, S> to{out<S>(result)};
    const auto pull = [=](int64_t i, int64_t n, Vec<T> noise) {
      const Vec<T> slope = gate.slope(from.next(i, n), noise), own = g.next(i, n);
      const Vec<T> all = own * slope;
      to.next(i, saturated<S>(of_probs ? within(kLargest<T>, all, own) : all), n);
    };
    over_elements(x.numel(), kNoisyGrain, [=](int64_t begin, int64_t end) {
      with_logistic<T>(begin, end, key, offset, pull);
    });
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&concrete>(m, "concrete");
  implement<&concrete_backward>(m, "concrete_backward");
}
