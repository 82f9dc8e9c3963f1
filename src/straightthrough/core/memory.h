// Tensors in memory: new ones, and how results are written to them.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "simd.h"

namespace operators {

using torch::stable::Tensor;

template <class S>
const S* in(const Tensor& x) {
  return static_cast<const S*>(x.const_data_ptr());
}
template <class S>
S* out(Tensor& x) {
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

// ---- results ----

// Whether the process has all of that memory already: the kernel clears what is new at its first use.
inline bool is_resident(const void* data, size_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t page = 4096;
  const auto begin = reinterpret_cast<uintptr_t>(data) / page * page;
  const size_t length = reinterpret_cast<uintptr_t>(data) + bytes - begin;
  std::vector<unsigned char> pages((length + page - 1) / page);
  if (mincore(reinterpret_cast<void*>(begin), length, pages.data()) != 0) return false;
  return std::all_of(pages.begin(), pages.end(), [](unsigned char state) { return state & 1; });
#else
  return false;
#endif
}

// What a kernel writes to. A result too large to stay in the cache is written past it, else every line
// would be fetched only to be overwritten. New memory is not: clearing it has brought it into the cache.
template <class S>
class Result {
 public:
  explicit Result(Tensor& y) : to_(out<S>(y)) {
    constexpr size_t large = size_t{8} << 20;
    const size_t bytes = y.numel() * sizeof(S);
    past_cache_ = simd::kStreams && bytes >= large && is_resident(to_, bytes);
  }
  bool past_cache() const { return past_cache_; }
  S* at(int64_t i) const { return to_ + i; }

  // The first `count` elements of `x`, to element i and those after it.
  template <class V>
  ALWAYS_INLINE void put(int64_t i, V x, int64_t count) const {
    if (past_cache_ && count >= simd::lanes<simd::Lane<V>> && simd::is_aligned(to_ + i))
      simd::stream(to_ + i, x);
    else
      simd::store<S>(to_ + i, x, count);
  }
  // Elements that lie in order elsewhere, to element i and those after it.
  void copy(int64_t i, const S* from, int64_t count) const {
    simd::copy_past_cache(to_ + i, from, count * sizeof(S));
  }

 private:
  S* to_;
  bool past_cache_;
};

}  // namespace operators
