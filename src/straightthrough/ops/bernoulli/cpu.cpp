// Binary operators: the CPU kernels of reference.py, same names, same order.
#include <algorithm>

#include "../../core/operators.h"
#include "../../core/philox.h"

namespace {

using namespace operators;
using namespace simd;

constexpr int64_t kGrain = 16384;

// Call f(element, count, noise) for vectors of the elements in [begin, end), each at a whole number of
// bytes from `begin` in a bit an element. make(group) gives the noise of as many elements as it
// likes, from the first of a group on; all of it is made before any f, as two short chains of
// instructions overlap better than a long one.
template <class T, class Make, class F>
void with_noise(int64_t begin, int64_t end, int64_t offset, const Make& make, const F& f) {
  constexpr int64_t width = philox::per_group<T>, vectors = std::tuple_size_v<decltype(make(0))>;
  constexpr int64_t most = vectors * lanes<T>;
  for (int64_t i = begin; i < end;) {
    const int64_t skip = (offset + i) % width;
    const auto noise = make((offset + i) / width);
    if (skip == 0 && i + most <= end) {
#pragma GCC unroll 1  // more would crowd the constants of f out of the registers
      for (int k = 0; k < vectors; ++k, i += lanes<T>) f(i, lanes<T>, noise[k]);
      continue;
    }
    const int64_t stop = std::min(end, i + (most - skip) / 8 * 8);
    const T* from = reinterpret_cast<const T*>(&noise) + skip;
    for (; i < stop; i += lanes<T>, from += lanes<T>) {
      const int64_t count = std::min<int64_t>(lanes<T>, stop - i);
      f(i, count, simd::load<T>(from, count, T(0.5)));
    }
    i = stop;
  }
}

template <class T, class F>
void with_uniforms(int64_t begin, int64_t end, uint64_t seed, int64_t offset, uint32_t stream,
                   const F& f) {
  const auto make = [=](int64_t group) { return philox::element_uniforms<T>(seed, group, stream); };
  with_noise<T>(begin, end, offset, make, f);
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

// ---- the draw ----

// Draws for logits or probabilities: 1 where u < p.
template <class T>
struct Draw {
  uint64_t seed;
  int64_t offset;
  bool of_probs;

  struct Outcome {
    Truth<T> truth;
    Vec<T> value;  // NaN where p is no probability
  };

  // Call f(element, count, least) with what each u is at least.
  template <class F>
  void over(int64_t begin, int64_t end, const F& f) const {
    const auto make = [key = seed](int64_t group) {
      return philox::element_bounds<T>(key, group, philox::kDraw);
    };
    with_noise<T>(begin, end, offset, make, f);
  }

  ALWAYS_INLINE Outcome operator()(int64_t i, Vec<T> x, Vec<T> least) const {
    const Vec<T> zero{}, one = broadcast(T(1));
    if (of_probs) {
      const Truth<T> drawn = settled(i, least, [&](Vec<T> u) { return less(u, x); });
      const Truth<T> valid = less_equal(zero, x) & less_equal(x, one);
      const Vec<T> nan = broadcast(std::numeric_limits<T>::quiet_NaN());
      return {drawn, select(valid, select(drawn, one, zero), nan)};
    }
    // u < sigmoid(x) without the division. (Beyond 88 there is no need of the exponential: u >= 2^-33.)
    const Vec<T> odds = exp(at_most(T(88), -x));
    const Truth<T> drawn = settled(i, least, [&](Vec<T> u) { return less(u + u * odds, one); });
    return {drawn, select(drawn, one, odds - odds)};
  }

 private:
  // The truth of below(u), which is monotone: in most lanes the bounds of u tell.
  template <class Below>
  ALWAYS_INLINE Truth<T> settled(int64_t i, Vec<T> least, const Below& below) const {
    constexpr T slack = philox::kSlack<T>;
    const Truth<T> surely = below(least + slack);
    if (slack == 0) return surely;
    const uint32_t open = bits_of_lanes<T>(below(least)) & ~bits_of_lanes<T>(surely);
    return open == 0 ? surely : below(completed(i, least, open));
  }
  __attribute__((noinline)) Vec<T> completed(int64_t i, Vec<T> u, uint32_t open) const {
    for (; open != 0; open &= open - 1) {
      const int lane = __builtin_ctz(open);
      u[lane] = philox::element_uniform<T>(seed, offset + i + lane, philox::kDraw);
    }
    return u;
  }
};

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
    const Draw<T> draw{key, offset, of_probs};
    const Input<S> from(x);
    const Result<S> to(y);
    over_elements(x.numel(), kGrain, [=](int64_t begin, int64_t end) {
      draw.over(begin, end, [=](int64_t i, int64_t n, Vec<T> least) {
        const auto drawn = draw(i, from.get(i, n, T(0)), least);
        to.put(i, drawn.value, n);
        store_bits<T>(bit, i, drawn.truth, n);
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
    const auto other = sigmoid(select(outcome, -z, z));
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
    const Input<S> from(x), g(grad);
    const Result<S> to(result);
    const auto slope = [=](int64_t i, auto n, Vec<T> u) {
      return rule(from.get(i, n, T(0)), load_bits<T>(bit, i, n), u);
    };
    const auto scale = [=](int64_t i, auto n, Vec<T> mean) {
      to.put(i, g.get(i, n, T(0)) * mean, n);
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

template <class T, class F>
void with_logistic(int64_t begin, int64_t end, uint64_t seed, int64_t offset, const F& f) {
  const auto make = [=](int64_t group) {
    auto noise = philox::element_uniforms<T>(seed, group, philox::kDraw);
    for (auto& u : noise) u = log_normal((T(1) - u) / u);
    return noise;
  };
  with_noise<T>(begin, end, offset, make, f);
}

Tensor concrete(const Tensor& given, const Tensor& seed, int64_t offset, double tau, double gamma,
                double zeta, bool hard, bool of_probs) {
  const Tensor x = ordered(given);
  Tensor result = fresh_like(x);
  const uint64_t key = key_of(seed);
  dispatch(x.scalar_type(), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const Gate<T> gate(tau, gamma, zeta, of_probs);
    const Input<S> from(x);
    const Result<S> to(result);
    const Draw<T> draw{key, offset, of_probs};
    const auto open = [=](int64_t i, int64_t n, Vec<T> least) {
      to.put(i, draw(i, from.get(i, n, T(0)), least).value, n);
    };
    const auto relax = [=](int64_t i, int64_t n, Vec<T> noise) {
      to.put(i, gate.soft_value(from.get(i, n, T(0)), noise), n);
    };
    over_elements(x.numel(), kGrain, [=](int64_t begin, int64_t end) {
      if (hard) return draw.over(begin, end, open);
      with_logistic<T>(begin, end, key, offset, relax);
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
    const Input<S> from(x), g(grad);
    const Result<S> to(result);
    const auto pull = [=](int64_t i, int64_t n, Vec<T> noise) {
      const Vec<T> slope = gate.slope(from.get(i, n, T(0)), noise);
      to.put(i, g.get(i, n, T(0)) * slope, n);
    };
    over_elements(x.numel(), kGrain, [=](int64_t begin, int64_t end) {
      with_logistic<T>(begin, end, key, offset, pull);
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
