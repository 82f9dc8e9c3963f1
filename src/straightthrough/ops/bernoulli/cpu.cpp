// Binary operators: the CPU kernels of reference.py, same names, same order.
#include <algorithm>

#include "../../core/operators.h"
#include "../../core/philox.h"

namespace {

using namespace operators;
using namespace simd;

// Call f(element, count, uniforms) for vectors of the elements in [begin, end).
template <class T, class F>
void with_uniforms(int64_t begin, int64_t end, uint64_t seed, int64_t offset, uint32_t stream,
                   const F& f) {
  constexpr int width = philox::per_block<T>;
  for (int64_t i = begin; i < end;) {
    T chunk[philox::per_sixteen<T> + lanes<T>];
    const int64_t group = (offset + i) / width;
    philox::uniforms(philox::at_positions(seed, group, 0, stream), chunk);
    const int64_t skip = (offset + i) % width;
    const int64_t stop = std::min(end, i + philox::per_sixteen<T> - skip);
    for (const T* u = chunk + skip; i < stop; u += lanes<T>) {
      const int64_t count = std::min<int64_t>(lanes<T>, stop - i);
      f(i, count, simd::load<T>(u, count, T(0.5)));
      i += count;
    }
  }
}

template <class F>
void over_elements(int64_t count, const F& f) {
  torch::stable::parallel_for(0, count, 16384, f);
}

// The logit of x and its derivative, x being a logit already or a probability.
template <class V>
V logit(V x, bool of_probs) {
  return of_probs ? log(x) - log1m(x) : x;
}
template <class V>
V logit_slope(V p, bool of_probs) {
  using T = Lane<V>;
  if (!of_probs) return V{} + T(1);
  const V variance = p * (T(1) - p);
  const T tiny = std::numeric_limits<T>::min();
  return T(1) / (variance < tiny ? V{} + tiny : variance);
}

// u < sigmoid(x), without the division. (Beyond 88 the exponential is not needed: u >= 2^-33.)
template <class V>
auto below_sigmoid(V u, V x) {
  using T = Lane<V>;
  const V most = V{} + T(88);
  return u + u * exp(-x < most ? -x : most) < T(1);
}

// ---- the draw ----

std::tuple<Tensor, Tensor> binary_draw(const Tensor& given, const Tensor& seed, int64_t offset,
                                       bool of_probs) {
  const Tensor x = ordered(given);
  Tensor y = torch::stable::empty_like(x);
  Tensor outcome = torch::stable::new_empty(x, x.sizes(), ScalarType::Bool);
  const uint64_t key = key_of(seed);
  auto* bit = static_cast<uint8_t*>(outcome.mutable_data_ptr());
  dispatch(x.scalar_type(), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const S* from = in<S>(x);
    S* to = out<S>(y);
    over_elements(x.numel(), [&](int64_t begin, int64_t end) {
      with_uniforms<T>(begin, end, key, offset, philox::kDraw, [&](int64_t i, int64_t n, Vec<T> u) {
        const Vec<T> v = simd::load<T>(from + i, n, T(0));
        const auto drawn = of_probs ? u < v : below_sigmoid(u, v);
        const auto valid = of_probs ? (v >= T(0)) & (v <= T(1)) : v == v;
        const Vec<T> nan = broadcast(std::numeric_limits<T>::quiet_NaN());
        simd::store<S>(to + i, valid ? (drawn ? broadcast(T(1)) : Vec<T>{}) : nan, n);
        store_bytes(bit + i, drawn, n);
      });
    });
  });
  return {y, outcome};
}

// ---- its rules, for the logit of the outcome ----

struct StraightThrough {
  double tau;
  static constexpr bool noisy = false;
  template <class V, class I>
  V operator()(V x, I, V) const {
    using T = Lane<V>;
    V s, rest;
    sigmoids(x * T(1 / tau), s, rest);
    return s * rest * T(1 / tau);
  }
};

struct ReinMax {
  double tau;
  static constexpr bool noisy = false;
  template <class V, class I>
  V operator()(V x, I outcome, V) const {
    using T = Lane<V>;
    V p, q;
    sigmoids(x, p, q);
    if (tau == 1) return T(0.5) * (outcome ? q : p);
    V warm, rest;
    sigmoids(x * T(1 / tau), warm, rest);
    const V above = outcome ? warm + T(1) : warm, below = outcome ? rest : rest + T(1);
    return T(0.5) * (above * below - p * q);
  }
};

struct Gumbel {
  double tau;
  static constexpr bool noisy = true;
  template <class V, class I>
  V operator()(V x, I outcome, V u) const {
    using T = Lane<V>;
    const V toward = (outcome ? x : -x) + log1m(u);
    // softplus(toward) - log u, the distance of logit + noise from 0
    const V size = toward < T(0) ? toward : -toward;
    const V distance = (toward < T(0) ? V{} : toward) + log1p(exp(size)) - log(u);
    V s, rest;
    sigmoids(distance * T(1 / tau), s, rest);
    return s * rest * T(1 / tau);
  }

 private:
  template <class V>
  static V log1p(V e) {
    using T = Lane<V>;
    const V w = T(1) + e;
    const V corrected = log(w) * (e / (w - T(1)));
    return w == T(1) ? e : corrected;
  }
};

template <class Rule>
Tensor backward(const Rule& rule, const Tensor& given, const Tensor& given_outcome,
                const Tensor& given_grad, uint64_t key, int64_t offset) {
  const Tensor x = ordered(given), outcome = ordered(given_outcome);
  const Tensor grad = ordered_like(given, given_grad);
  Tensor result = torch::stable::empty_like(x);
  const auto* bit = static_cast<const uint8_t*>(outcome.const_data_ptr());
  dispatch(x.scalar_type(), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const S *from = in<S>(x), *g = in<S>(grad);
    S* to = out<S>(result);
    const auto vector = [&](int64_t i, int64_t n, Vec<T> u) {
      const auto drawn = load_bytes<T>(bit + i, n) != 0;
      const Vec<T> slope = rule(simd::load<T>(from + i, n, T(0)), drawn, u);
      simd::store<S>(to + i, simd::load<T>(g + i, n, T(0)) * slope, n);
    };
    over_elements(x.numel(), [&](int64_t begin, int64_t end) {
      if (Rule::noisy)
        return with_uniforms<T>(begin, end, key, offset, philox::kConditional, vector);
      for (int64_t i = begin; i < end; i += lanes<T>)
        vector(i, std::min<int64_t>(lanes<T>, end - i), Vec<T>{});
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
                        const Tensor& seed, int64_t offset) {
  return backward(Gumbel{tau}, x, outcome, grad, key_of(seed), offset);
}

// ---- the concrete gates ----

struct Gate {
  double tau, gamma, zeta;
  bool hard, of_probs;

  template <class V>
  V noisy(V x, V u) const {
    return logit(x, of_probs) + log1m(u) - log(u);
  }
  template <class V>
  V value(V x, V u) const {
    using T = Lane<V>;
    if (hard) {
      const V opened = of_probs ? (u < x ? V{} + T(1) : V{}) : (below_sigmoid(u, x) ? V{} + T(1) : V{});
      const auto valid = of_probs ? (x >= T(0)) & (x <= T(1)) : x == x;
      return valid ? opened : V{} + std::numeric_limits<T>::quiet_NaN();
    }
    const V z = noisy(x, u);
    V s, rest;
    sigmoids(z * T(1 / tau), s, rest);
    const V gate = s * T(zeta - gamma) + T(gamma);
    return gate < T(0) ? V{} : (gate > T(1) ? V{} + T(1) : gate);
  }
  template <class V>
  V slope(V x, V u) const {
    using T = Lane<V>;
    V s, rest;
    sigmoids(noisy(x, u) * T(1 / tau), s, rest);
    const V gate = s * T(zeta - gamma) + T(gamma);
    const V inside = s * rest * T((zeta - gamma) / tau) * logit_slope(x, of_probs);
    return (gate < T(0)) | (gate > T(1)) ? V{} : inside;
  }
};

template <class F>
Tensor over_gates(const Tensor& given, const Tensor& seed, int64_t offset, const F& f) {
  const Tensor x = ordered(given);
  Tensor result = torch::stable::empty_like(x);
  const uint64_t key = key_of(seed);
  dispatch(x.scalar_type(), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const S* from = in<S>(x);
    S* to = out<S>(result);
    over_elements(x.numel(), [&](int64_t begin, int64_t end) {
      with_uniforms<T>(begin, end, key, offset, philox::kDraw, [&](int64_t i, int64_t n, Vec<T> u) {
        simd::store<S>(to + i, f(simd::load<T>(from + i, n, T(0)), u, i, n, stored), n);
      });
    });
  });
  return result;
}

Tensor concrete(const Tensor& x, const Tensor& seed, int64_t offset, double tau, double gamma,
                double zeta, bool hard, bool of_probs) {
  const Gate gate{tau, gamma, zeta, hard, of_probs};
  return over_gates(x, seed, offset,
                    [&](auto v, auto u, int64_t, int64_t, auto) { return gate.value(v, u); });
}

Tensor concrete_backward(const Tensor& x, const Tensor& given_grad, const Tensor& seed,
                         int64_t offset, double tau, double gamma, double zeta, bool hard,
                         bool of_probs) {
  const Tensor grad = ordered_like(x, given_grad);
  const Gate gate{tau, gamma, zeta, hard, of_probs};
  return over_gates(x, seed, offset, [&](auto v, auto u, int64_t i, int64_t n, auto stored) {
    using T = Lane<decltype(v)>;
    using S = decltype(stored);
    return simd::load<T>(in<S>(grad) + i, n, T(0)) * gate.slope(v, u);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  m.impl("binary_draw", TORCH_BOX(&binary_draw));
  m.impl("binary_straight_through", TORCH_BOX(&binary_straight_through));
  m.impl("binary_reinmax", TORCH_BOX(&binary_reinmax));
  m.impl("binary_gumbel_st", TORCH_BOX(&binary_gumbel_st));
  m.impl("concrete", TORCH_BOX(&concrete));
  m.impl("concrete_backward", TORCH_BOX(&concrete_backward));
}
