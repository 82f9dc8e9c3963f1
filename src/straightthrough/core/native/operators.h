// What every cpu.cpp is made of: dtypes, ranges of elements, bits.
#pragma once
#include <algorithm>

#include "elementary.h"
#include "registration.h"
#include "truth.h"

namespace operators {

// Call f(compute, stored) for a dtype that `check_floating` let pass: half precision is computed in
// single precision.
template <class F>
void dispatch(int32_t dtype, const F& f) {
  if (dtype == kFloat32) return f(float{}, float{});
  if (dtype == kFloat64) return f(double{}, double{});
  if (dtype == kBFloat16) return f(float{}, simd::BFloat16{});
  f(float{}, simd::Float16{});
}

// A number rounded to the dtype of `x`.
inline double rounded(double number, const Tensor& x) {
  double result = number;
  dispatch(dtype_of(x), [&](auto compute, auto stored) {
    result = simd::widen(simd::narrow<decltype(stored)>(decltype(compute)(number)));
  });
  return result;
}

// The gradient with its elements in order, as `x` is.
inline Tensor ordered_grad(const Tensor& grad, const Tensor& x) {
  check_grad(grad, x);
  return ordered(grad);
}

// ---- elementwise work ----

// Call f(begin, end) for ranges of at least `grain` elements; each begins at a byte of their bits.
template <class F>
void over_elements(int64_t count, int64_t grain, const F& f) {
  constexpr int64_t unit = 64;
  const auto part = [&](int64_t begin, int64_t end) {
    f(begin * unit, std::min(end * unit, count));
  };
  torch::stable::parallel_for(0, (count + unit - 1) / unit, grain / unit, part);
}

// Call f(element, count) for vectors of the elements in [begin, end), most with a constant count.
template <class T, class F>
INLINE_CALLS void over_vectors(int64_t begin, int64_t end, F f) {
  constexpr int64_t n = simd::lanes<T>;
  int64_t i = begin;
  for (; i + n <= end; i += n) f(i, std::integral_constant<int64_t, n>());
  if (i < end) f(i, end - i);
}

// One bit an element, or so many, as bits.py packs them.
inline Tensor fresh_bits(int64_t count, int64_t planes = 1) {
  const int64_t size[] = {planes * bytes_of_bits(count)};
  return fresh({size, 1}, kUInt8);
}

// Those of `x`, out of bits or of bools.
inline Tensor packed(const char* name, const Tensor& truth, const Tensor& x, int64_t planes = 1) {
  check_bits(name, truth, x, planes);
  const Tensor dense = ordered(truth);
  if (dtype_of(truth) == kUInt8) return dense;
  const int64_t count = x.numel();
  Tensor bits = fresh_bits(count);
  const uint8_t* from = in<uint8_t>(dense);
  uint8_t* to = out<uint8_t>(bits);
  std::fill_n(to, bits.numel(), 0);
  for (int64_t i = 0; i < count; ++i) to[i / 8] |= static_cast<uint8_t>((from[i] != 0) << i % 8);
  return bits;
}

}  // namespace operators
