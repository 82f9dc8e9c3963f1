// k-hots of the largest classes: the CPU kernel of reference.py.
#include "../../core/native/selection.h"

namespace {

using namespace selection;

struct TopK {
  static constexpr bool of_logits = true, of_grad = false;
  int64_t k;

  template <class T, class S>
  void operator()(const Row<T, true, S>& r) const {
    if (r.t.classes() <= kFew) return ranked(r);
    IntVec<T> unordered{};
    for (int64_t i = 0; i < r.t.size(); ++i) unordered |= r.x(i) != r.x(i);
    const auto [top, chosen] = take_largest(r, r.scratch[0], k);
    const IntVec<T> without =
        unordered | (top == broadcast(-std::numeric_limits<T>::infinity()));
    for (int64_t i = 0; i < r.t.size(); ++i) {
      const IntVec<T> taken =
          (r.t.at(r.scratch[0], i) != r.x(i)) | (r.t.classes_at(i) == chosen);
      put(r, i, taken, without);
    }
  }

  template <class T, class S>
  void operator()(const Row<T, false, S>& r) const {
    const bool unordered = store_keys(r, r.scratch[0]);
    const Keys<T> keys{r.t, r.scratch[0]};
    const Bound<T> bound = reached_by(keys, k);
    const bool invalid = unordered || bound.count < k;
    const Int<T> least = bound.key;
    const int64_t last = !invalid && bound.count > k
                             ? keys.place_of(least, k - keys.at_least(least + 1))
                             : r.t.classes();
    const IntVec<T> without = IntVec<T>{} - static_cast<Int<T>>(invalid);
    for (int64_t i = 0; i < r.t.size(); ++i) {
      const IntVec<T> first = r.t.classes_at(i) <= static_cast<Int<T>>(last);
      put(r, i, (keys.at(i) > least) | ((keys.at(i) == least) & first), without);
    }
  }

 private:
  static constexpr int64_t kFew = 8;

  // A class is taken if fewer than k beat it.
  template <class T, class S>
  ALWAYS_INLINE void ranked(const Row<T, true, S>& r) const {
    const auto most = static_cast<Int<T>>(k);
    const Vec<T> none = broadcast(-std::numeric_limits<T>::infinity());
    const int64_t n = r.t.size();
    IntVec<T> rank[kFew] = {}, allowed{}, unordered{};
    for (int64_t i = 0; i < n; ++i) {
      const Vec<T> x = r.x(i);
      allowed -= x > none;
      unordered |= x != x;
      for (int64_t j = 0; j < i; ++j) {
        const IntVec<T> beaten = x > r.x(j);  // by a later class; of equals the first one wins
        rank[j] -= beaten;
        rank[i] += beaten + 1;
      }
    }
    const IntVec<T> without = unordered | (allowed < most);
    for (int64_t i = 0; i < n; ++i) put(r, i, rank[i] < most, without);
  }

  template <class T, bool Across, class S>
  ALWAYS_INLINE static void put(const Row<T, Across, S>& r, int64_t i, IntVec<T> taken,
                                IntVec<T> without) {
    const Vec<T> nan = broadcast(std::numeric_limits<T>::quiet_NaN()), zero{};
    r.put(i, without ? nan : (taken ? zero + T(1) : zero));
  }
};

Tensor topk_hot(const Tensor& scores, int64_t k) {
  check_rows("scores", scores);
  if (k < 1 || k > scores.sizes().back())
    refuse("k must lie in [1, ", scores.sizes().back(), "], got ", k);
  return over_rows(TopK{k}, scores, scores);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(straightthrough, CPU, m) {
  implement<&topk_hot>(m, "topk_hot");
}
