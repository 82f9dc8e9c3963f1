// What every room's cpu.cpp needs to be torch operators: dtypes, seeds, outputs.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "elementary.h"

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

// The gradient with its elements in order, of the same dtype and size as `x`.
inline Tensor ordered_like(const Tensor& x, const Tensor& grad) {
  STD_TORCH_CHECK(grad.scalar_type() == x.scalar_type() && grad.numel() == x.numel(),
                  "the gradient must have the dtype and the size of the input");
  return ordered(grad);
}

// Ask for huge pages under a large tensor. Where its memory is new to the process, as it mostly is,
// to fault it in by small pages takes several times as long as to fill it.
inline void prefer_huge_pages(void* data, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr size_t page = 4096, huge = size_t{1} << 21;
  if (bytes < 2 * huge) return;
  const size_t skip = (page - reinterpret_cast<uintptr_t>(data) % page) % page;
  madvise(static_cast<char*>(data) + skip, (bytes - skip) / page * page, MADV_HUGEPAGE);
#endif
}

// A new tensor on the CPU with its elements in order. (The operators `empty_like` and `new_empty`
// are looked up by name at every call, which takes longer than the work on a small tensor.)
inline Tensor fresh(torch::headeronly::IntHeaderOnlyArrayRef sizes, int32_t dtype) {
  std::array<int64_t, 64> strides;  // as many dimensions as torch has
  int64_t step = 1;
  for (size_t i = sizes.size(); i-- > 0; step *= std::max<int64_t>(sizes[i], 1)) strides[i] = step;
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(sizes.size(), sizes.data(), strides.data(), dtype,
                                                  aoti_torch_device_type_cpu(), 0, &handle));
  Tensor result(handle);
  void* data = result.mutable_data_ptr();
  prefer_huge_pages(data, result.numel() * result.element_size());
  return result;
}

inline Tensor fresh_like(const Tensor& x) {
  int32_t dtype;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(x.get(), &dtype));
  return fresh(x.sizes(), dtype);
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
