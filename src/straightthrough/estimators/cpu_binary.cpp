// Binary gradients given the outcome, for its logit: the CPU kernels of binary_straight_through,
// binary_reinmax and binary_gumbel_st, same names.
#include "../core/native/draws.h"

namespace {

using namespace draws;

// ---- the rules, and whether their slope may be above 1 ----

struct StraightThrough {
  double tau;
  bool steep() const { return tau < 0.25; }
  static constexpr bool noisy = false;
  template <class V, class I>
  V operator()(V x, I, V) const {
    using T = Lane<V>;
    return sigmoid(x * T(1 / tau)).slope * T(1 / tau);
  }
};

struct ReinMax {
  double tau;
  bool steep() const { return false; }
  static constexpr bool noisy = false;
  template <class V, class I>
  V operator()(V x, I outcome, V) const {
    using T = Lane<V>;
    const V z = x * T(1 / tau);
    const auto other = sigmoid(select(outcome, -z, z));
    if (tau == 1) return T(0.5) * other.value;
    return T(0.5) * (other.value + (other.slope - sigmoid(x).slope));
  }
};

struct Gumbel {
  double tau;
  bool steep() const { return tau < 0.25; }
  static constexpr bool noisy = true;
  template <class V, class I>
  V operator()(V x, I outcome, V u) const {
    using T = Lane<V>;
    const V toward = select(outcome, x, -x) + log1m(u);
    // softplus(toward) - log u, the distance of logit + noise from 0
    const V size = toward < T(0) ? toward : -toward;
    const V distance = (toward < T(0) ? V{} : toward) + log1p(exp(size)) - log_normal(u);
    return sigmoid(distance * T(1 / tau)).slope * T(1 / tau);
  }

 private:
  template <class V>
  static V log1p(V e) {
    using T = Lane<V>;
    const V w = T(1) + e;
    const V corrected = log_normal(w) * (e / (w - T(1)));
    return w == T(1) ? e : corrected;
  }
};

// Call use(element, count, mean) with the mean of f(element, count, uniforms) over the draws.
template <class T, class F, class Use>
void over_draws(int64_t begin, int64_t end, uint64_t seed, int64_t offset, int64_t samples,
                const F& f, const Use& use) {
  constexpr int64_t chunk = 256;
  for (int64_t first = begin; first < end; first += chunk) {
    const int64_t stop = std::min(end, first + chunk);
    T total[chunk + lanes<T>]{};
    for (int64_t k = 0; k < samples; ++k) {
      const uint32_t tag = philox::conditional(k);
      with_uniforms<T>(first, stop, seed, offset, tag, [&](int64_t i, int64_t n, Vec<T> u) {
        T* sum = total + i - first;
        simd::store<T>(sum, simd::load<T>(sum, n, T(0)) + f(i, n, u), n);
      });
    }
    for (int64_t i = first; i < stop; i += lanes<T>) {
      const int64_t n = std::min<int64_t>(lanes<T>, stop - i);
      use(i, n, simd::load<T>(total + i - first, n, T(0)) * T(1.0 / samples));
    }
  }
}

template <class Rule>
Tensor backward(const Rule& rule, const Tensor& unordered, const Tensor& outcome,
                const Tensor& unordered_grad, uint64_t key, int64_t offset, int64_t samples = 1) {
  check_floating("x", unordered);
  const Tensor x = ordered(unordered), bits = packed("outcome", outcome, unordered);
  const Tensor grad = ordered_grad(unordered_grad, unordered);
  Tensor result = fresh_like(x);
  const uint8_t* bit = in<uint8_t>(bits);
  dispatch(dtype_of(x), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const Reader<T, S> from{in<S>(x), T(0)}, g{in<S>(grad), T(0)};
    const Writer<T, S> to{out<S>(result)};
    const auto slope = [=](int64_t i, auto n, Vec<T> u) {
      return rule(from.next(i, n), load_bits<T>(bit, i, n), u);
    };
    const auto scale = [=](int64_t i, auto n, Vec<T> mean) {
      const Vec<T> own = g.next(i, n) * mean;
      to.next(i, rule.steep() ? saturated<S>(own) : own, n);
    };
    const auto vector = [=](int64_t i, auto n, Vec<T> u) { scale(i, n, slope(i, n, u)); };
    over_elements(x.numel(), kNoisyGrain, [=](int64_t begin, int64_t end) {
      if (samples > 1) return over_draws<T>(begin, end, key, offset, samples, slope, scale);
      if (Rule::noisy)
        return with_uniforms<T>(begin, end, key, offset, philox::kConditional, vector);
      over_vectors<T>(begin, end, [=](int64_t i, auto n) { vector(i, n, Vec<T>{}); });
    });
  });
  return result;
}

Tensor binary_straight_through(const Tensor& x, const Tensor& outcome, const Tensor& grad,
                               double tau) {
  return backward(StraightThrough{tau}, x, outcome, grad, 0, 0);
}
Tensor binary_reinmax(const Tensor& x, const Tensor& outcome, const Tensor& grad, double tau) {
  return backward(ReinMax{tau}, x, outcome, grad, 0, 0);
}
Tensor binary_gumbel_st(const Tensor& x, const Tensor& outcome, const Tensor& grad, double tau,
                        int64_t samples, const Tensor& seed, int64_t offset) {
  check_samples(samples);
  return backward(Gumbel{tau}, x, outcome, grad, key_of(seed, offset), offset, samples);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&binary_straight_through>(m, "binary_straight_through");
  implement<&binary_reinmax>(m, "binary_reinmax");
  implement<&binary_gumbel_st>(m, "binary_gumbel_st");
}
