// Pointwise operators and rules: what torch does in several passes, each in one.
#include <algorithm>

#include "../../core/operators.h"

namespace {

using namespace operators;
using namespace simd;

constexpr int64_t kGrain = 32768;
constexpr double kPi = 3.14159265358979323846;

template <class V>
V square(V x) {
  return x * x;
}
template <class V>
V positive(V x) {
  return x < Lane<V>(0) ? V{} : x;  // keeps NaN
}
template <class V>
V where(Truth<Lane<V>> truth, double yes, double no) {
  return select(truth, V{} + Lane<V>(yes), V{} + Lane<V>(no));
}

// ---- hard forwards ----

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

// ---- windows: whether |x - centre| is within a bound, one bit an element ----

template <class V>
ALWAYS_INLINE auto inside(V x, double centre, double bound, bool closed) {
  using T = Lane<V>;
  const V distance = absolute(x - T(centre)), most = V{} + T(bound);
  return closed ? less_equal(distance, most) : less(distance, most);
}

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

Tensor window_vjp(const Tensor& given, const Tensor& truth, double inner, double outer) {
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

// ---- the other rules ----

struct Tanh {
  double slope;
  template <class V>
  V derivative(V x) const {
    using T = Lane<V>;
    const V e = exp(T(-2 * slope) * absolute(x));
    return T(4 * slope) * e / square(T(1) + e);
  }
};

struct Sigmoid {
  double slope;
  template <class V>
  V derivative(V x) const {
    using T = Lane<V>;
    const V e = exp(T(-slope) * absolute(x));
    return T(slope) * e / square(T(1) + e);
  }
};

struct Atan {
  double alpha;
  template <class V>
  V derivative(V x) const {
    using T = Lane<V>;
    return T(alpha / 2) / (T(1) + square(T(kPi / 2 * alpha) * x));
  }
};

struct Erf {
  double alpha;
  template <class V>
  V derivative(V x) const {
    using T = Lane<V>;
    return T(alpha / std::sqrt(kPi)) * exp(-square(T(alpha) * x));
  }
};

struct FastSigmoid {
  double slope;
  template <class V>
  V derivative(V x) const {
    using T = Lane<V>;
    return T(1) / square(T(1) + T(slope) * absolute(x));
  }
};

struct SuperSpike {
  double alpha;
  template <class V>
  V derivative(V x) const {
    using T = Lane<V>;
    return T(alpha) / square(T(1) + absolute(x));
  }
};

struct SoftSign {
  double alpha;
  template <class V>
  V derivative(V x) const {
    using T = Lane<V>;
    return T(alpha / 2) / square(T(1) + T(alpha) * absolute(x));
  }
};

struct Triangle {
  double alpha;
  template <class V>
  V derivative(V x) const {
    using T = Lane<V>;
    return positive(T(alpha) - T(alpha * alpha) * absolute(x));
  }
};

struct Exponential {
  double alpha;
  template <class V>
  V derivative(V x) const {
    using T = Lane<V>;
    return T(alpha / 2) * exp(T(-alpha) * absolute(x));
  }
};

struct MultiGaussian {
  double gamma, sigma, height;
  template <class V>
  V derivative(V x) const {
    const auto bumps = density(x, sigma, 6 * sigma) + density(x, -sigma, 6 * sigma);
    using T = Lane<V>;
    return T(gamma * (1 + height)) * density(x, 0, sigma) - T(gamma * height) * bumps;
  }

 private:
  template <class V>
  static V density(V x, double mean, double deviation) {
    using T = Lane<V>;
    const T scale = T(1 / (deviation * std::sqrt(2 * kPi)));
    return scale * exp(T(-0.5) * square((x - T(mean)) / T(deviation)));
  }
};

struct ApproxSign {
  template <class V>
  V derivative(V x) const {
    using T = Lane<V>;
    return positive(T(2) - T(2) * absolute(x));
  }
};

struct SwishSign {
  double beta;
  template <class V>
  V derivative(V x) const {
    using T = Lane<V>;
    const T most = T(1e4);
    V z = absolute(T(beta) * x);
    z = z > most ? V{} + most : z;
    const V e = exp(-z), tanh = (T(1) - e) / (T(1) + e);
    return T(beta) * (T(2) - z * tanh) * (T(2) * e / square(T(1) + e));
  }
};

struct ErrorDecay {
  double t;
  template <class V>
  V derivative(V x) const {
    using T = Lane<V>;
    const V e = exp(T(-2 * t) * absolute(x));
    return T(4 * std::max(t, 1.0)) * e / square(T(1) + e);
  }
};

template <class Rule, class... Fields>
Tensor vjp(const Tensor& given, const Tensor& given_grad, Fields... fields) {
  const Rule rule{fields...};
  check_floating("x", given);
  const bool steep = !(rule.derivative(Vec<double>{})[0] <= 1);  // all are greatest at 0
  const Tensor x = ordered(given), grad = ordered_grad(given_grad, given);
  Tensor result = fresh_like(x);
  dispatch(dtype_of(x), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const Input<S> from(x), g(grad);
    const Result<S> to(result);
    over_elements(x.numel(), kGrain, [=](int64_t begin, int64_t end) {
      over_vectors<T>(begin, end, [=](int64_t i, auto n) {
        const Vec<T> slope = rule.derivative(from.get(i, n, T(0)));
        const Vec<T> own = g.get(i, n, T(0)) * slope;
        to.put(i, steep ? saturated<S>(own) : own, n);
      });
    });
  });
  return result;
}

template <class Rule>
Tensor none(const Tensor& x, const Tensor& grad) {
  return vjp<Rule>(x, grad);
}
template <class Rule>
Tensor one(const Tensor& x, const Tensor& grad, double a) {
  return vjp<Rule>(x, grad, a);
}
template <class Rule>
Tensor three(const Tensor& x, const Tensor& grad, double a, double b, double c) {
  return vjp<Rule>(x, grad, a, b, c);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&sign>(m, "sign");
  implement<&heaviside>(m, "heaviside");
  implement<&heaviside_or_nan>(m, "heaviside_or_nan");
  implement<&ternary>(m, "ternary");
  implement<&window_bits>(m, "window_bits");
  implement<&sign_and_window>(m, "sign_and_window");
  implement<&window_vjp>(m, "window_vjp");
  implement<&one<Tanh>>(m, "Tanh");
  implement<&one<Sigmoid>>(m, "Sigmoid");
  implement<&one<Atan>>(m, "Atan");
  implement<&one<Erf>>(m, "Erf");
  implement<&one<FastSigmoid>>(m, "FastSigmoid");
  implement<&one<SuperSpike>>(m, "SuperSpike");
  implement<&one<SoftSign>>(m, "SoftSign");
  implement<&one<Triangle>>(m, "Triangle");
  implement<&one<Exponential>>(m, "Exponential");
  implement<&three<MultiGaussian>>(m, "MultiGaussian");
  implement<&none<ApproxSign>>(m, "ApproxSign");
  implement<&one<SwishSign>>(m, "SwishSign");
  implement<&one<ErrorDecay>>(m, "ErrorDecay");
}
