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

inline void check_like(const Tensor& x, const Tensor& grad) {
  STD_TORCH_CHECK(grad.scalar_type() == x.scalar_type() && grad.numel() == x.numel(),
                  "the gradient must have the dtype and the size of the input");
}

// The gradient with its elements in order, of the same dtype and size as `x`.
inline Tensor ordered_like(const Tensor& x, const Tensor& grad) {
  check_like(x, grad);
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

// A new tensor on the CPU. (The operators `empty_like` and `new_empty` are looked up by name at every
// call, which takes longer than the work on a small tensor.)
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
  std::array<int64_t, 64> strides;  // as many dimensions as torch has
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

template <class S>
const S* in(const Tensor& x) {
  return static_cast<const S*>(x.const_data_ptr());
}
template <class S>
S* out(Tensor& x) {
  return static_cast<S*>(x.mutable_data_ptr());
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
