// k-hots of the largest classes: the CPU kernel of reference.py.
#include "../../core/native/rows.h"

namespace {

using namespace rows;

template <class T>
using Int = typename Traits<T>::Int;

// Whole numbers in the order of the numbers whose bits they are; both zeros are one.
template <class T>
ALWAYS_INLINE IntVec<T> key_of(Vec<T> x) {
  const IntVec<T> bits = bits_of<IntVec<T>>(x + T(0));
  return bits ^ ((bits >> (8 * sizeof(T) - 1)) & std::numeric_limits<Int<T>>::max());
}

// The keys of a long row.
template <class T>
struct Keys {
  const Tile<T, false>& t;
  const T* keys;

  ALWAYS_INLINE IntVec<T> at(int64_t i) const { return bits_of<IntVec<T>>(t.at(keys, i)); }

  int64_t at_least(Int<T> bound) const {
    IntVec<T> count{};
    for (int64_t i = 0; i < t.size(); ++i) count -= at(i) >= bound;
    int64_t total = 0;
    for (int lane = 0; lane < lanes<T>; ++lane) total += count[lane];
    return total;
  }
  // The class of the n-th that is `key`, counted from 1.
  int64_t place_of(Int<T> key, int64_t n) const {
    int64_t place = 0;
    for (;; ++place) {
      n -= at(place / lanes<T>)[place % lanes<T>] == key;
      if (n == 0) return place;
    }
  }
};

struct TopK {
  static constexpr bool of_logits = true, of_grad = false;
  int64_t k;

  template <class T, class S>
  void operator()(const Row<T, true, S>& r) const {
    // The largest of what is left is taken away k times.
    const Vec<T> none = broadcast(-std::numeric_limits<T>::infinity());
    T* left = r.scratch[0];
    IntVec<T> unordered{}, chosen = unordered - 1;
    for (int64_t i = 0; i < r.t.size(); ++i) {
      unordered |= r.x(i) != r.x(i);
      r.t.put(left, i, r.x(i));
    }
    Vec<T> top;
    for (int64_t n = 0; n < k; ++n) {
      const IntVec<T> before = chosen;
      top = none;
      for (int64_t i = 0; i < r.t.size(); ++i) {
        const IntVec<T> here = r.t.classes_at(i);
        const Vec<T> x = here == before ? none : r.t.at(left, i);
        r.t.put(left, i, x);
        chosen = x > top ? here : chosen;
        top = max(x, top);
      }
    }
    const IntVec<T> without = unordered | (top == none);
    for (int64_t i = 0; i < r.t.size(); ++i) {
      const IntVec<T> taken = (r.t.at(left, i) != r.x(i)) | (r.t.classes_at(i) == chosen);
      put(r, i, taken, without);
    }
  }

  template <class T, class S>
  void operator()(const Row<T, false, S>& r) const {
    const T infinity = std::numeric_limits<T>::infinity();
    T* stored = r.scratch[0];
    IntVec<T> unordered{};
    for (int64_t i = 0; i < r.t.size(); ++i) {
      r.fetch_ahead(i);
      unordered |= r.x(i) != r.x(i);
      r.t.put(stored, i, bits_of<Vec<T>>(key_of<T>(r.x(i))));
    }
    const Keys<T> keys{r.t, stored};
    // The k-th largest key lies in [low, high], above which there are fewer than k.
    int64_t low = key_of<T>(broadcast(-infinity))[0] + 1;
    int64_t high = key_of<T>(broadcast(infinity))[0];
    int64_t count = keys.at_least(low);
    bool invalid = count < k;
    for (int lane = 0; lane < lanes<T>; ++lane) invalid |= unordered[lane] != 0;
    while (!invalid && count > k && low < high) {
      const auto width = static_cast<uint64_t>(high) - static_cast<uint64_t>(low);
      const auto middle = static_cast<int64_t>(static_cast<uint64_t>(low) + width / 2 + width % 2);
      const int64_t above = keys.at_least(static_cast<Int<T>>(middle));
      if (above < k)
        high = middle - 1;
      else
        low = middle, count = above;
    }
    const auto least = static_cast<Int<T>>(low);
    const bool tied = !invalid && count > k;
    const int64_t last =
        tied ? keys.place_of(least, k - keys.at_least(least + 1)) : r.t.classes();
    const IntVec<T> without = IntVec<T>{} - static_cast<Int<T>>(invalid);
    for (int64_t i = 0; i < r.t.size(); ++i) {
      const IntVec<T> first = r.t.classes_at(i) <= static_cast<Int<T>>(last);
      put(r, i, (keys.at(i) > least) | ((keys.at(i) == least) & first), without);
    }
  }

 private:
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
