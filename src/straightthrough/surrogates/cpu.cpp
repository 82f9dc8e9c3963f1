// Derivatives of pointwise rules: a functor a class that is `fused`, of the same name.
#include "../core/native/elementwise.h"

namespace {

using namespace operators;
using namespace simd;

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
V falling(V z) {
  return square(Lane<V>(1) / (Lane<V>(1) + absolute(z)));
}

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
    return falling(T(slope) * x);
  }
};

struct SuperSpike {
  double alpha;
  template <class V>
  V derivative(V x) const {
    using T = Lane<V>;
    return T(alpha) * falling(x);
  }
};

struct SoftSign {
  double alpha;
  template <class V>
  V derivative(V x) const {
    using T = Lane<V>;
    return T(alpha / 2) * falling(T(alpha) * x);
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
    const T limit = T(1e4);
    V z = absolute(T(beta) * x);
    z = z > limit ? V{} + limit : z;
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
Tensor vjp(const Tensor& unordered, const Tensor& unordered_grad, Fields... fields) {
  const Rule rule{fields...};
  check_floating("x", unordered);
  const bool steep = !(rule.derivative(Vec<double>{})[0] <= 1);  // all are greatest at 0
  const Tensor x = ordered(unordered), grad = ordered_grad(unordered_grad, unordered);
  Tensor result = fresh_like(x);
  elementwise(std::tuple{Numbers{x}, Numbers{grad}}, std::tuple{Gradient{result, steep}},
              [=](auto v, auto g) { return g * rule.derivative(v); });
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
