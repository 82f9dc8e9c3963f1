// Tensors in memory: new ones, and whose elements are in order.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "stored.h"

namespace operators {

using torch::stable::Tensor;

constexpr int64_t kMostDimensions = 64;  // as many as torch computes with

template <class S>
const S* in(const Tensor& x) {
  return static_cast<const S*>(x.const_data_ptr());
}
template <class S>
S* out(const Tensor& x) {
  return static_cast<S*>(x.mutable_data_ptr());
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

// A new tensor on the CPU. (The operators `empty_like` and `new_empty` are looked up by name at
// every call, which takes longer than the work on a small tensor.)
inline Tensor fresh(torch::headeronly::IntHeaderOnlyArrayRef sizes, const int64_t* strides,
                    int32_t dtype) {
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(sizes.size(), sizes.data(), strides, dtype,
                                                  aoti_torch_device_type_cpu(), 0, &handle));
  Tensor result(handle);
  void* data = result.mutable_data_ptr();
  prefer_huge_pages(data, result.numel() * result.element_size());
  return result;
}

// The same with its elements in order.
inline Tensor fresh(torch::headeronly::IntHeaderOnlyArrayRef sizes, int32_t dtype) {
  std::array<int64_t, kMostDimensions> strides;
  int64_t step = 1;
  for (size_t i = sizes.size(); i-- > 0; step *= std::max<int64_t>(sizes[i], 1)) strides[i] = step;
  return fresh(sizes, strides.data(), dtype);
}

inline int32_t dtype_of(const Tensor& x) {
  int32_t dtype;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(x.get(), &dtype));
  return dtype;
}

inline Tensor fresh_like(const Tensor& x) { return fresh(x.sizes(), dtype_of(x)); }

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

}  // namespace operators
