// Pointwise rules: the gradient times the derivative in one pass, a kernel a surrogate.
#include <algorithm>

#include "../../core/operators.h"

namespace {

using namespace operators;
using namespace simd;

constexpr double kPi = 3.14159265358979323846;

template <class V>
V absolute(V x) {
  return x < Lane<V>(0) ? -x : x;
}
template <class V>
V square(V x) {
  return x * x;
}
template <class V>
V positive(V x) {
  return x < Lane<V>(0) ? V{} : x;  // keeps NaN
}
template <class V>
V where(decltype(V{} < V{}) truth, double yes, double no) {
  return truth ? V{} + Lane<V>(yes) : V{} + Lane<V>(no);
}

struct Clipped {
  double width;
  template <class V>
  V derivative(V x) const {
    return where<V>(absolute(x) <= Lane<V>(width), 1, 0);
  }
};

struct Rectangle {
  double alpha;
  template <class V>
  V derivative(V x) const {
    return where<V>(absolute(x) < Lane<V>(0.5 / alpha), alpha, 0);
  }
};

struct LeakyRectangle {
  double width, leak;
  template <class V>
  V derivative(V x) const {
    return where<V>(absolute(x) <= Lane<V>(width), 0.5 / width, leak);
  }
};

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
  const Tensor x = ordered(given), grad = ordered_like(given, given_grad);
  Tensor result = fresh_like(x);
  dispatch(x.scalar_type(), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const S *from = in<S>(x), *g = in<S>(grad);
    S* to = out<S>(result);
    torch::stable::parallel_for(0, x.numel(), 32768, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i += lanes<T>) {
        const int64_t n = std::min<int64_t>(lanes<T>, end - i);
        const Vec<T> slope = rule.derivative(simd::load<T>(from + i, n, T(0)));
        simd::store<S>(to + i, simd::load<T>(g + i, n, T(0)) * slope, n);
      }
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
Tensor two(const Tensor& x, const Tensor& grad, double a, double b) {
  return vjp<Rule>(x, grad, a, b);
}
template <class Rule>
Tensor three(const Tensor& x, const Tensor& grad, double a, double b, double c) {
  return vjp<Rule>(x, grad, a, b, c);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  m.impl("Clipped", TORCH_BOX(&one<Clipped>));
  m.impl("Rectangle", TORCH_BOX(&one<Rectangle>));
  m.impl("LeakyRectangle", TORCH_BOX(&two<LeakyRectangle>));
  m.impl("Tanh", TORCH_BOX(&one<Tanh>));
  m.impl("Sigmoid", TORCH_BOX(&one<Sigmoid>));
  m.impl("Atan", TORCH_BOX(&one<Atan>));
  m.impl("Erf", TORCH_BOX(&one<Erf>));
  m.impl("FastSigmoid", TORCH_BOX(&one<FastSigmoid>));
  m.impl("SuperSpike", TORCH_BOX(&one<SuperSpike>));
  m.impl("SoftSign", TORCH_BOX(&one<SoftSign>));
  m.impl("Triangle", TORCH_BOX(&one<Triangle>));
  m.impl("Exponential", TORCH_BOX(&one<Exponential>));
  m.impl("MultiGaussian", TORCH_BOX(&three<MultiGaussian>));
  m.impl("ApproxSign", TORCH_BOX(&none<ApproxSign>));
  m.impl("SwishSign", TORCH_BOX(&one<SwishSign>));
  m.impl("ErrorDecay", TORCH_BOX(&one<ErrorDecay>));
}
