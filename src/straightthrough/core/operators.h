// What every room's cpu.cpp needs to be torch operators: dtypes, seeds, outputs.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "simd.h"

namespace operators {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

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

// The gradient with its elements in order, of the same dtype and size as `x`.
inline Tensor ordered_like(const Tensor& x, const Tensor& grad) {
  STD_TORCH_CHECK(grad.scalar_type() == x.scalar_type() && grad.numel() == x.numel(),
                  "the gradient must have the dtype and the size of the input");
  return ordered(grad);
}

template <class S>
const S* in(const Tensor& x) {
  return static_cast<const S*>(x.const_data_ptr());
}
template <class S>
S* out(Tensor& x) {
  return static_cast<S*>(x.mutable_data_ptr());
}

}  // namespace operators
