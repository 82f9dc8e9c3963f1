// Integers times a scale a row, and their gradients: the CPU kernels of reference.py, same names,
// same order.
#include "steps.h"

namespace {

using namespace quantize;

// ---- steps ----

// The nearest whole number, half to even.
template <class V>
ALWAYS_INLINE V nearest(V x) {
  using T = Lane<V>;
#if defined(__AVX512F__)
  constexpr int to_even = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  if constexpr (sizeof(T) == 4)
    return (V)_mm512_roundscale_ps((__m512)x, to_even);
  else
    return (V)_mm512_roundscale_pd((__m512d)x, to_even);
#elif defined(__AVX2__)
  constexpr int to_even = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  if constexpr (sizeof(T) == 4)
    return (V)_mm256_round_ps((__m256)x, to_even);
  else
    return (V)_mm256_round_pd((__m256d)x, to_even);
#else
  constexpr T shift = sizeof(T) == 4 ? T(0x1p23) : T(0x1p52);
  const V size = absolute(x), all = broadcast(shift);
  const V near = size < all ? (size + shift) - shift : size;
  return with_sign_of(x, near);
#endif
}

template <class T>
struct IntegerSteps {
  Vec<T> scale, zero;
  T low, high;
  bool by_value;

  ALWAYS_INLINE Placed<T> place(Vec<T> x) const {
    const Vec<T> v = x / scale, code = nearest(v) + zero;
    const Vec<T> q = at_least(low, at_most(high, code)) - zero;
    const Vec<T> least = broadcast(low), most = broadcast(high);
    if (by_value) return {v, q, both<T>(less(least - zero, v), less(v, most - zero))};
    return {v, q, both<T>(less_equal(least, code), less_equal(code, most))};
  }
};

struct Integers {
  const Tensor& scales;
  const Tensor* zeros;
  double low, high;
  bool by_value = false;

  int64_t unit(const Tensor& x) const { return x.numel() / scales.numel(); }

  template <class T, class S>
  auto steps(const S*) const {
    return [scale = in<T>(scales), zero = zeros ? in<T>(*zeros) : nullptr, low = T(low),
            high = T(high), by_value = by_value](int64_t row) {
      return IntegerSteps<T>{broadcast(valid(scale[row])), broadcast(zero ? zero[row] : T(0)), low,
                             high, by_value};
    };
  }
};

// ---- whole numbers from `low` to `high` ----

Tensor integers(const Tensor& given, const Tensor& scale, double low, double high) {
  const Tensor scales = scales_of(given, scale);
  return values(ordered(given), Integers{scales, nullptr, low, high});
}

std::tuple<Tensor, Tensor> integers_and_inside(const Tensor& given, const Tensor& scale, double low,
                                               double high, bool by_value) {
  const Tensor scales = scales_of(given, scale);
  return values_and_inside(ordered(given), Integers{scales, nullptr, low, high, by_value});
}

Tensor passed_bits(const Tensor& given, const Tensor& truth) {
  check_floating("grad", given);
  const Tensor grad = ordered(given), bits = packed("bits", truth, given);
  Tensor result = fresh_like(grad);
  elementwise(std::tuple{Numbers{grad}, Bits{bits}}, std::tuple{ExactNumbers{result}},
              [](auto g, auto truth) { return select(truth, g, decltype(g){}); });
  return result;
}

std::tuple<Tensor, Tensor> integers_backward(const Tensor& given, const Tensor& grad_given,
                                             const Tensor& scale, double low, double high,
                                             bool by_value) {
  check_floating("x", given);
  const Tensor grad = ordered_grad(grad_given, given), scales = scales_of(given, scale);
  const Integers grid{scales, nullptr, low, high, by_value};
  const auto [to_x, to_scale, _] = backward<false>(ordered(given), grad, scales, grid);
  return {to_x, to_scale};
}

// ---- with a zero point a row ----

Tensor zeros_of(const Tensor& zero, const Tensor& scales) {
  check_cpu("zeros", zero);
  if (dtype_of(zero) != dtype_of(scales) || !zero.sizes().equals(scales.sizes()))
    refuse("zeros must be one number a scale, of ", described(scales), ", got ", described(zero));
  return ordered(zero);
}

Tensor affine(const Tensor& given, const Tensor& scale, const Tensor& zero, double low,
              double high) {
  const Tensor scales = scales_of(given, scale), zeros = zeros_of(zero, scales);
  return values(ordered(given), Integers{scales, &zeros, low, high});
}

std::tuple<Tensor, Tensor> affine_and_inside(const Tensor& given, const Tensor& scale,
                                             const Tensor& zero, double low, double high,
                                             bool by_value) {
  const Tensor scales = scales_of(given, scale), zeros = zeros_of(zero, scales);
  return values_and_inside(ordered(given), Integers{scales, &zeros, low, high, by_value});
}

std::tuple<Tensor, Tensor, Tensor> affine_backward(const Tensor& given, const Tensor& grad_given,
                                                   const Tensor& scale, const Tensor& zero,
                                                   double low, double high, bool by_value) {
  check_floating("x", given);
  const Tensor grad = ordered_grad(grad_given, given), scales = scales_of(given, scale);
  const Tensor zeros = zeros_of(zero, scales);
  const Integers grid{scales, &zeros, low, high, by_value};
  const auto [to_x, to_scale, to_zero] = backward<true>(ordered(given), grad, scales, grid);
  return {to_x, to_scale, to_zero};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&integers>(m, "integers");
  implement<&integers_and_inside>(m, "integers_and_inside");
  implement<&passed_bits>(m, "passed_bits");
  implement<&integers_backward>(m, "integers_backward");
  implement<&affine>(m, "affine");
  implement<&affine_and_inside>(m, "affine_and_inside");
  implement<&affine_backward>(m, "affine_backward");
}
