// Gradients to the parameter of a count: the CPU kernel of `fini` in reference.py.
#include "../../core/native/elementwise.h"

namespace {

using namespace operators;
using simd::broadcast;
using simd::exp;

template <class V>
struct Moments {
  V mean, dispersion, slope;
};

struct Parameter {
  double size;
  bool direct, of_failure;

  template <class V>
  ALWAYS_INLINE Moments<V> moments(V x) const {
    using T = simd::Lane<V>;
    const V one = broadcast(T(1));
    const T count = T(size < 0 ? -size : size), sign = of_failure ? T(-1) : T(1);
    const V odds = exp(simd::at_most(T(simd::kLargestExponent), sign * x));
    if (std::isinf(size)) return {direct ? x : odds, one, direct ? one : odds};
    if (size < 0) {
      const V p = direct ? x : one / (one + exp(simd::at_most(T(simd::kLargestExponent), -x)));
      const V q = direct ? one - x : one / (one + odds);
      return {count * p, q, direct ? broadcast(count) : count * p * q};
    }
    if (!direct) return {count * odds, one + odds, sign * count * odds};
    const V p = of_failure ? one - x : x, q = of_failure ? x : one - x;
    return {count * p / q, one / q, sign * count / (q * q)};
  }
};

struct Weight {
  double size;
  int64_t order;

  // As in fini.py.
  template <class V>
  ALWAYS_INLINE V operator()(V mean, V dispersion, V count) const {
    using T = simd::Lane<V>;
    const V one = broadcast(T(1));
    const V m = mean == T(0) ? one : mean, d = dispersion == T(0) ? one : dispersion;
    const V ratio = count / m, other = (one + count / T(size)) / d;
    const V weight = T(0.5) * (ratio + other);
    if (order == 2 || size == -1) return weight;
    const V following = (one + (count + one) / T(size)) / d;
    const V third = count * (count - one) / m / m - T(2) * ratio * other;
    return weight - (third + other * following) / T(12 * (1 + 1 / size));
  }
};

Tensor fini(const Tensor& unordered, const Tensor& count, const Tensor& grad, double size,
            bool direct, bool of_failure, int64_t order) {
  check_floating("x", unordered);
  check_alike("count", count, unordered);
  check_grad(grad, unordered);
  if (order < 1 || order > 3) refuse("order must lie in [1, 3], got ", order);
  const Tensor x = ordered(unordered), counts = ordered(count), grads = ordered(grad);
  Tensor result = fresh_like(x);
  const Parameter parameter{size, direct, of_failure};
  const Weight weight{size, order};
  // Half precision may round the count of all trials, the only one where p is all but 1.
  const double all = size < 0 ? rounded(-size, x) : -1;
  const auto pulled = [=](auto at, auto z, auto g) {
    using T = simd::Lane<decltype(at)>;
    const auto moments = parameter.moments(at);
    const auto exact = z == T(all) ? broadcast(T(-size)) : z, to_mean = g * moments.slope;
    if (order == 1) return z == z ? to_mean : z;
    return to_mean * weight(moments.mean, moments.dispersion, exact);
  };
  const auto inputs = std::tuple(Numbers{x}, Numbers{counts}, Numbers{grads});
  elementwise(inputs, std::tuple(Gradient{result, true}), pulled);
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&fini>(m, "fini");
}
