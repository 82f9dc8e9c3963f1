// The two largest scores of rows: the CPU kernel of reference.py.
#include "../../core/native/operators.h"

namespace {

using namespace operators;
using namespace simd;

constexpr int kRows = 4;

template <class T>
struct TwoLargest {
  T largest, following;
  int64_t place;
};

template <class V>
ALWAYS_INLINE V min(V a, V b) {
  return a < b ? a : b;
}

// Several rows at once, as a comparison waits for the one before. The largest two of each lane come
// in one pass, then those of all lanes, then the first place.
template <int rows, class T, class S>
INLINE_CALLS void two_largest_of(const S* from, int64_t size, TwoLargest<T>* found) {
  constexpr T none = -std::numeric_limits<T>::infinity();
  constexpr T unknown = std::numeric_limits<T>::quiet_NaN();
  Vec<T> first[rows], second[rows];
  Truth<T> unordered[rows];
  for (int r = 0; r < rows; ++r)
    first[r] = second[r] = broadcast(none), unordered[r] = is_nan(first[r]);
  over_vectors<T>(0, size, [&](int64_t i, auto count) {
    for (int r = 0; r < rows; ++r) {
      const Vec<T> x = load<T>(from + r * size + i, count, none);
      unordered[r] |= is_nan(x);
      second[r] = max(min(x, first[r]), second[r]);
      first[r] = max(x, first[r]);
    }
  });
  for (int r = 0; r < rows; ++r) {
    const Vec<T> top = broadcast(largest(first[r]));
    const int lane = __builtin_ctz(bits_of_lanes<T>(less_equal(top, first[r])));
    found[r] = {top[0], largest(select(lanes_of_bits<T>(1u << lane), second[r], first[r])), 0};
    if (bits_of_lanes<T>(unordered[r])) {
      found[r] = {unknown, unknown, 0};
      continue;
    }
    for (int64_t i = 0;; i += lanes<T>) {
      const int64_t count = std::min<int64_t>(lanes<T>, size - i);
      const Vec<T> x = load<T>(from + r * size + i, count, none);
      const uint32_t here = bits_of_lanes<T>(less_equal(top, x), count);
      if (!here) continue;
      found[r].place = i + __builtin_ctz(here);
      break;
    }
  }
}

std::tuple<Tensor, Tensor, Tensor> two_largest(const Tensor& unordered) {
  check_rows("scores", unordered);
  const Tensor scores = ordered(unordered);
  const auto shape = scores.sizes().slice(0, scores.dim() - 1);
  const int64_t size = scores.sizes().back(), rows = scores.numel() / size;
  Tensor largest = fresh(shape, dtype_of(scores)), following = fresh(shape, dtype_of(scores));
  Tensor index = fresh(shape, kInt64);
  dispatch(dtype_of(scores), [&](auto compute, auto stored) {
    using T = decltype(compute);
    using S = decltype(stored);
    const S* from = in<S>(scores);
    S *top = out<S>(largest), *next = out<S>(following);
    int64_t* place = out<int64_t>(index);
    const int64_t grain = 32768 / size + 1;
    torch::stable::parallel_for(0, rows, grain, [=](int64_t begin, int64_t end) {
      TwoLargest<T> found[kRows];
      for (int64_t i = begin; i < end;) {
        const int count = end - i < kRows ? 1 : kRows;
        if (count == 1)
          two_largest_of<1>(from + i * size, size, found);
        else
          two_largest_of<kRows>(from + i * size, size, found);
        for (int r = 0; r < count; ++r, ++i) {
          top[i] = narrow<S>(found[r].largest), next[i] = narrow<S>(found[r].following);
          place[i] = found[r].place;
        }
      }
    });
  });
  return {largest, index, following};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&two_largest>(m, "two_largest");
}
