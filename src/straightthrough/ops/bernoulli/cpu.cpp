// Binary operators: the CPU kernels of reference.py, same names, same order.
#include <algorithm>

#include "../../core/operators.h"
#include "../../core/philox.h"

namespace {

using namespace operators;
using namespace simd;

constexpr int64_t kGrain = 16384;

// Call f(element, count, noise(uniforms)) for vectors of the elements in [begin, end), each at a
// whole number of bytes from `begin` in a bit an element. The noise of a chunk is made before any f,
// as two short chains of instructions overlap better than a long one.
template <class T, class Noise, class F>
void with_noise(int64_t begin, int64_t end, uint64_t seed, int64_t offset, uint32_t stream,
                Noise noise, F f) {
  constexpr int64_t width = philox::per_block<T>, each = philox::kLanes * width;
  constexpr int64_t most = philox::kAtOnce * each;
  for (int64_t i = begin; i < end;) {
    const int64_t group = (offset + i) / width, skip = (offset + i) % width;
    philox::Blocks counters;
    for (int k = 0; k < philox::kAtOnce; ++k)
      counters[k] = philox::positions(group + philox::kLanes * k, 0, stream);
    const philox::Blocks drawn = philox::blocks(seed, counters);
    std::array<Vec<T>, 4> u[philox::kAtOnce];
#pragma GCC unroll 2
    for (int k = 0; k < philox::kAtOnce; ++k) u[k] = philox::uniforms<T>(drawn[k]);
    for (auto& four : u)
      for (auto& each : four) each = noise(each);
    if (skip == 0 && i + most <= end) {
#pragma GCC unroll 1  // more would crowd the constants of f out of the registers
      for (int k = 0; k < 4 * philox::kAtOnce; ++k, i += lanes<T>) f(i, lanes<T>, u[k / 4][k % 4]);
      continue;
    }
    const int64_t stop = std::min(end, i + (most - skip) / 8 * 8);
    const T* from = reinterpret_cast<const T*>(u) + skip;
    for (; i < stop; i += lanes<T>, from += lanes<T>) {
      const int64_t count = std::min<int64_t>(lanes<T>, stop - i);
      f(i, count, simd::load<T>(from, count, T(0.5)));
    }
    i = stop;
  }
}

template <class T, class F>
void with_uniforms(int64_t begin, int64_t end, uint64_t seed, int64_t offset, uint32_t stream,
                   F f) {
  with_noise<T>(begin, end, seed, offset, stream, [](Vec<T> u) { return u; }, f);
}

// The logit of x and its derivative, x being a logit already or a probability.
template <class V>
ALWAYS_INLINE V logit(V x, bool of_probs) {
  return of_probs ? log(x) - log1m(x) : x;
}
template <class V>
ALWAYS_INLINE V logit_slope(V p) {
  using T = Lane<V>;
  const V variance = p * (T(1) - p);
  const T tiny = std::numeric_limits<T>::min();
  return T(1) / (variance < tiny ? V{} + tiny : variance);
}

// u < sigmoid(x), without the division. (Beyond 88 the exponential is not needed: u >= 2^-33.)
template <class V>
ALWAYS_INLINE auto below_sigmoid(V u, V x) {
  using T = Lane<V>;
  return u + u * exp(at_most(T(88), -x)) < T(1);
}

// ---- the draw ----

std::tuple<Tensor, Tensor> binary_draw(const Tensor& given, const Tensor& seed, int64_t offset,
                                       bool of_probs) {
  const Tensor x = ordered(given);
  Tensor y = fresh_like(x);
  Tensor bits = fresh_bits(x.numel());
  uint8_t* bit = out<uint8_t>(bits);
  const uint64_t key = key_of(seed);
  dispatch(x.scalar_type(), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const S* from = in<S>(x);
    const Result<S> to(y);
    over_elements(x.numel(), kGrain, [=](int64_t begin, int64_t end) {
      with_uniforms<T>(begin, end, key, offset, philox::kDraw, [=](int64_t i, int64_t n, Vec<T> u) {
        const Vec<T> v = simd::load<T>(from + i, n, T(0));
        const auto drawn = of_probs ? u < v : below_sigmoid(u, v);
        const auto valid = of_probs ? (v >= T(0)) & (v <= T(1)) : v == v;
        const Vec<T> nan = broadcast(std::numeric_limits<T>::quiet_NaN());
        to.put(i, valid ? (drawn ? broadcast(T(1)) : Vec<T>{}) : nan, n);
        store_bits(bit, i, drawn, n);
      });
    });
  });
  return {y, bits};
}

// ---- its rules, for the logit of the outcome ----

struct StraightThrough {
  double tau;
  static constexpr bool noisy = false;
  template <class V, class I>
  V operator()(V x, I, V) const {
    using T = Lane<V>;
    return sigmoid(x * T(1 / tau)).slope * T(1 / tau);
  }
};

struct ReinMax {
  double tau;
  static constexpr bool noisy = false;
  template <class V, class I>
  V operator()(V x, I outcome, V) const {
    using T = Lane<V>;
    const V z = x * T(1 / tau);
    const auto other = sigmoid(outcome ? -z : z);
    if (tau == 1) return T(0.5) * other.value;
    return T(0.5) * (other.value + (other.slope - sigmoid(x).slope));
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
  constexpr int64_t most = 256;
  for (int64_t first = begin; first < end; first += most) {
    const int64_t stop = std::min(end, first + most);
    T total[most + lanes<T>]{};
    for (int64_t k = 0; k < samples; ++k) {
      const auto tag = static_cast<uint32_t>(philox::kConditional + 256 * k);
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
Tensor backward(const Rule& rule, const Tensor& given, const Tensor& outcome,
                const Tensor& given_grad, uint64_t key, int64_t offset, int64_t samples = 1) {
  const Tensor x = ordered(given), bits = packed(outcome, x.numel());
  const Tensor grad = ordered_like(given, given_grad);
  Tensor result = fresh_like(x);
  const uint8_t* bit = in<uint8_t>(bits);
  dispatch(x.scalar_type(), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const S *from = in<S>(x), *g = in<S>(grad);
    const Result<S> to(result);
    const auto slope = [=](int64_t i, auto n, Vec<T> u) {
      return rule(simd::load<T>(from + i, n, T(0)), load_bits<T>(bit, i, n), u);
    };
    const auto scale = [=](int64_t i, auto n, Vec<T> mean) {
      to.put(i, simd::load<T>(g + i, n, T(0)) * mean, n);
    };
    const auto vector = [=](int64_t i, auto n, Vec<T> u) { scale(i, n, slope(i, n, u)); };
    over_elements(x.numel(), kGrain, [=](int64_t begin, int64_t end) {
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
  return backward(Gumbel{tau}, x, outcome, grad, key_of(seed), offset, samples);
}

// ---- the concrete gates ----

template <class T>
struct Gate {
  T inverse_tau, gamma, stretch;
  bool of_probs;

  Gate(double tau, double gamma, double zeta, bool of_probs)
      : inverse_tau(1 / tau), gamma(gamma), stretch(zeta - gamma), of_probs(of_probs) {}

  static ALWAYS_INLINE Vec<T> logistic(Vec<T> u) {
    return log_normal((T(1) - u) / u);
  }
  ALWAYS_INLINE Vec<T> hard_value(Vec<T> x, Vec<T> u) const {
    const auto opened = of_probs ? u < x : below_sigmoid(u, x);
    const auto valid = of_probs ? (x >= T(0)) & (x <= T(1)) : x == x;
    const Vec<T> value = opened ? broadcast(T(1)) : Vec<T>{};
    return valid ? value : broadcast(std::numeric_limits<T>::quiet_NaN());
  }
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
    if (of_probs) inside *= logit_slope(x);
    return (gate < T(0)) | (gate > T(1)) ? Vec<T>{} : inside;
  }
};

Tensor concrete(const Tensor& given, const Tensor& seed, int64_t offset, double tau, double gamma,
                double zeta, bool hard, bool of_probs) {
  const Tensor x = ordered(given);
  Tensor result = fresh_like(x);
  const uint64_t key = key_of(seed);
  dispatch(x.scalar_type(), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const Gate<T> gate(tau, gamma, zeta, of_probs);
    const S* from = in<S>(x);
    const Result<S> to(result);
    const auto draw = [=](int64_t i, int64_t n, Vec<T> u) {
      to.put(i, gate.hard_value(simd::load<T>(from + i, n, T(0)), u), n);
    };
    const auto relax = [=](int64_t i, int64_t n, Vec<T> noise) {
      to.put(i, gate.soft_value(simd::load<T>(from + i, n, T(0)), noise), n);
    };
    over_elements(x.numel(), kGrain, [=](int64_t begin, int64_t end) {
      if (hard) return with_uniforms<T>(begin, end, key, offset, philox::kDraw, draw);
      with_noise<T>(begin, end, key, offset, philox::kDraw, Gate<T>::logistic, relax);
    });
  });
  return result;
}

Tensor concrete_backward(const Tensor& given, const Tensor& given_grad, const Tensor& seed,
                         int64_t offset, double tau, double gamma, double zeta, bool,
                         bool of_probs) {
  const Tensor x = ordered(given), grad = ordered_like(given, given_grad);
  Tensor result = fresh_like(x);
  const uint64_t key = key_of(seed);
  dispatch(x.scalar_type(), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const Gate<T> gate(tau, gamma, zeta, of_probs);
    const S *from = in<S>(x), *g = in<S>(grad);
    const Result<S> to(result);
    const auto pull = [=](int64_t i, int64_t n, Vec<T> noise) {
      const Vec<T> slope = gate.slope(simd::load<T>(from + i, n, T(0)), noise);
      to.put(i, simd::load<T>(g + i, n, T(0)) * slope, n);
    };
    over_elements(x.numel(), kGrain, [=](int64_t begin, int64_t end) {
      with_noise<T>(begin, end, key, offset, philox::kDraw, Gate<T>::logistic, pull);
    });
  });
  return result;
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
