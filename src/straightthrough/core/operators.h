// What every room's cpu.cpp needs to be torch operators: dtypes, seeds, outputs.
#pragma once
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "elementary.h"
#include "memory.h"
#include "truth.h"

namespace operators {

using torch::headeronly::ScalarType;

// Call f(compute, stored): half precision is computed in single precision.
template <class F>
void dispatch(ScalarType type, const F& f) {
  switch (type) {
    case ScalarType::Float: return f(float{}, float{});
    case ScalarType::Double: return f(double{}, double{});
    case ScalarType::BFloat16: return f(float{}, simd::bfloat16{});
    default: return f(float{}, simd::float16{});
  }
}

inline uint64_t key_of(const Tensor& seed) {
  return static_cast<uint64_t>(*static_cast<const int64_t*>(seed.const_data_ptr()));
}

// The same tensor with its elements in order; a copy only where it has other strides.
inline Tensor ordered(const Tensor& x) {
  return x.is_contiguous() ? x : torch::stable::contiguous(x);
}

// Whether the elements fill their memory without gaps, in any order of the dimensions.
inline bool is_dense(const Tensor& x) {
  std::vector<std::pair<int64_t, int64_t>> steps;
  for (int64_t d = 0; d < x.dim(); ++d)
    if (x.size(d) != 1) steps.emplace_back(x.stride(d), x.size(d));
  std::sort(steps.begin(), steps.end());
  int64_t expected = 1;
  for (const auto& [stride, size] : steps) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

inline void check_like(const Tensor& x, const Tensor& grad) {
  STD_TORCH_CHECK(grad.scalar_type() == x.scalar_type() && grad.numel() == x.numel(),
                  "the gradient must have the dtype and the size of the input");
}

// The gradient with its elements in order, of the same dtype and size as `x`.
inline Tensor ordered_like(const Tensor& x, const Tensor& grad) {
  check_like(x, grad);
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
void over_vectors(int64_t begin, int64_t end, F f) {
  constexpr int64_t n = simd::lanes<T>;
  int64_t i = begin;
  for (; i + n <= end; i += n) f(i, std::integral_constant<int64_t, n>());
  if (i < end) f(i, end - i);
}

// One bit an element, as bits.py packs them.
inline Tensor fresh_bits(int64_t count) {
  const int64_t size[] = {(count + 7) / 8};
  return fresh({size, 1}, aoti_torch_dtype_uint8());
}

// Those bits, out of themselves or of bools.
inline Tensor packed(const Tensor& truth, int64_t count) {
  const bool whole = truth.scalar_type() == ScalarType::Byte;
  STD_TORCH_CHECK((whole || truth.scalar_type() == ScalarType::Bool) &&
                      truth.numel() == (whole ? (count + 7) / 8 : count),
                  "there must be one bit or one bool an element");
  const Tensor given = ordered(truth);
  if (whole) return given;
  Tensor bits = fresh_bits(count);
  const uint8_t* from = in<uint8_t>(given);
  uint8_t* to = out<uint8_t>(bits);
  std::fill_n(to, bits.numel(), 0);
  for (int64_t i = 0; i < count; ++i) to[i / 8] |= static_cast<uint8_t>(from[i] << i % 8);
  return bits;
}

}  // namespace operators
